"""Data on the host, and which of their rows are shown.

In order: `padded` rows are more than they seem, so that devices share them evenly; `readers` know how an array, a data
set or an iterable of batches is read; a `source` stands for such data among a model's arguments; `shards` splits rows
over devices and processes; `shuffle` is the endless stream of rows that minibatches come from; `rows` checks which rows
a density is asked for, or goes through all of them in parts; `prefetch` reads the rows of the next steps while the
device computes. They know plates by name and size, and nothing of models.

A new kind of data is a reader: `size`, one `row`, `read(indices)`, and a line in `reader_of`.
"""
