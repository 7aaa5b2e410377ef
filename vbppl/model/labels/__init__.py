"""What rows and columns are called: words for a person, which no compiled program knows.

In order: `names` checks labels, and stands in for those that come with a model's arguments, so that a run sees how many
there are and not what they say; `axes` finds which axes of a site's value plates own, and which are named by `dims`.
"""
