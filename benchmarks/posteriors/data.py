"""The numbers that the suite's posteriors are conditioned on: small published tables, each with its source.

Facts without licence, typed in from the publications named. What scikit-learn ships (diabetes, breast
cancer, iris) is loaded from there; what is too large to stand here is read from a file that the user names.
"""

from __future__ import annotations

import numpy as np


def table(text: str) -> np.ndarray:
    """Rows of numbers, `(rows, columns)`; one row alone is `(columns,)`."""
    return np.array([[float(word) for word in line.split()] for line in text.strip().splitlines()]).squeeze()


# Rubin (1981), "Estimation in parallel randomized experiments", J. Educational Statistics 6, 377-401.
SCHOOLS_Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SCHOOLS_SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

# Weights in grams of 30 young rats at 8, 15, 22, 29 and 36 days: Gelfand, Hills, Racine-Poon and Smith (1990),
# "Illustration of Bayesian inference in normal data models using Gibbs sampling", JASA 85, 972-985; BUGS volume 1.
RATS_DAYS = np.array([8.0, 15.0, 22.0, 29.0, 36.0])
RATS = table("""
151 199 246 283 320
145 199 249 293 354
147 214 263 312 328
155 200 237 272 297
135 188 230 280 323
159 210 252 298 331
141 189 231 275 305
159 201 248 297 338
177 236 285 350 376
134 182 220 260 296
160 208 261 313 352
143 188 220 273 314
154 200 244 289 325
171 221 270 326 358
163 216 242 281 312
160 207 248 288 324
142 187 234 280 316
156 203 243 283 317
157 212 259 307 336
152 203 246 286 321
154 205 253 298 334
139 190 225 267 302
146 191 229 272 302
157 211 250 285 323
132 185 237 286 331
160 207 257 303 345
169 216 261 295 333
157 205 248 289 316
137 180 219 258 291
153 200 244 286 324
""")

# Failures of ten pumps and their thousands of hours: Gaver and O'Muircheartaigh (1987), Technometrics 29, 1-15.
PUMP_FAILURES = np.array([5, 1, 5, 14, 3, 19, 1, 1, 4, 22])
PUMP_HOURS = np.array([94.3, 15.7, 62.9, 126.0, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5])

# Germinated seeds among those on 21 plates, two kinds of seed and two root extracts: Crowder (1978), "Beta-binomial
# anova for proportions", Applied Statistics 27, 34-37; BUGS volume 1.
SEEDS = table("""
10 23 23 26 17 5 53 55 32 46 10 8 10 8 23 0 3 22 15 32 3
39 62 81 51 39 6 74 72 51 79 13 16 30 28 45 4 12 41 30 51 7
0 0 0 0 0 0 0 0 0 0 0 1 1 1 1 1 1 1 1 1 1
0 0 0 0 0 1 1 1 1 1 1 0 0 0 0 0 1 1 1 1 1
""")

# Deaths among operations in twelve hospitals: BUGS volume 1, "Surgical".
SURGERY = table("""
0 18 8 46 8 13 9 31 14 8 29 24
47 148 119 810 211 196 148 215 207 97 256 360
""")

# Yield of five samples from each of six batches of dye: Davies (1967); Box and Tiao (1973), chapter 5.
DYES = table("""
1545 1440 1440 1520 1580
1540 1555 1490 1560 1495
1595 1550 1605 1510 1560
1445 1440 1595 1465 1545
1595 1630 1515 1635 1625
1520 1455 1450 1480 1445
""")

# Beetles killed among those exposed, and log10 dose of carbon disulphide: Bliss (1935), Annals of Applied Biology 22.
BEETLES = table("""
6 13 18 28 52 53 61 60
59 60 62 56 63 59 62 60
1.6907 1.7242 1.7552 1.7842 1.8113 1.8369 1.8610 1.8839
""")

# Loss of ammonia; air flow, water temperature, acid: Brownlee (1965), "Statistical Theory and Methodology", p. 454.
STACK_LOSS = table("""
42 37 37 28 18 18 19 20 15 14 14 13 11 12 8 7 8 8 9 15 15
80 80 75 62 62 62 62 62 58 58 58 58 58 58 50 50 50 50 50 56 70
27 27 25 24 22 23 24 24 23 18 18 17 18 19 18 18 19 19 20 20 20
89 88 90 87 87 87 93 93 87 80 89 88 82 93 89 86 72 79 80 82 91
""")

# Revertant colonies of salmonella on three plates at six doses of quinoline: Breslow (1984), Applied Statistics 33.
SALMONELLA_DOSES = np.array([0.0, 10.0, 33.0, 100.0, 333.0, 1000.0])
SALMONELLA = table("""
15 21 29
16 18 21
16 26 33
27 41 60
33 38 41
20 27 42
""")

# Length of 27 dugongs and their age: Ratkowsky (1983), "Nonlinear Regression Modeling"; Carlin and Gelfand (1991).
DUGONGS = table("""
1.80 1.85 1.87 1.77 2.02 2.27 2.15 2.26 2.47 2.19 2.26 2.40 2.39 2.41 2.50 2.32 2.32 2.43 2.47 2.56 2.65 2.47 2.64 2.56 2.70 2.72 2.57
1.0 1.5 1.5 1.5 2.5 4.0 5.0 5.0 7.0 8.0 8.5 9.0 9.5 9.5 10.0 12.0 12.0 13.0 13.0 14.5 15.5 15.5 16.5 17.0 22.5 29.0 31.5
""")  # noqa: E501

# Velocity of a reaction, concentration, treated with puromycin or not: Bates and Watts (1988), appendix A1.3.
PUROMYCIN = table("""
76 47 97 107 123 139 159 152 191 201 207 200 67 51 84 86 98 115 131 124 144 158 160
.02 .02 .06 .06 .11 .11 .22 .22 .56 .56 1.1 1.1 .02 .02 .06 .06 .11 .11 .22 .22 .56 .56 1.1
1 1 1 1 1 1 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 0 0
""")

# Flow of the Nile at Aswan, 1871-1970, in 10^8 m^3: Cobb (1978), "The problem of the Nile", Biometrika 65, 243-251.
NILE = table("""
1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958 1140
1100 1210 1150 1250 1260 1220 1030 1100 774 840 874 694 940 833 701 916 692 1020 1050 969
831 726 456 824 702 1120 1100 832 764 821 768 845 864 862 698 845 744 796 1040 759
781 865 845 944 984 897 822 1010 771 676 649 846 812 742 801 1040 860 874 848 890
744 749 838 1050 918 986 797 923 975 815 1020 906 901 1170 912 746 919 718 714 740
""").ravel()

# Lynx trapped in Canada, 1821-1934: Campbell and Walker (1977), JRSS A 140, 411-431; Brockwell and Davis (1991).
LYNX = np.concatenate([
    table("269 321 585 871 1475 2821 3928 5943 4950 2577 523 98 184 279 409 2285 2685 3409 1824 409 151 45 68 213 546"),
    table("1033 2129 2536 957 361 377 225 360 731 1638 2725 2871 2119 684 299 236 245 552 1623 3311 6721 4254 687"),
    table("255 473 358 784 1594 1676 2251 1426 756 299 201 229 469 736 2042 2811 4431 2511 389 73 39 49 59 188 377"),
    table("1292 4031 3495 587 105 153 387 758 1307 3465 6991 6313 3794 1836 345 382 808 1388 2713 3800 3091 2985"),
    table("3790 674 81 80 108 229 399 1132 2432 3574 2935 1537 529 485 662 1000 1590 2657 3396"),
])  # fmt: skip

# Disasters in British coal mines a year, 1851-1961: Jarrett (1979), "A note on the intervals between coal-mining
# disasters", Biometrika 66, 191-193.
COAL = np.concatenate([
    table("4 5 4 0 1 4 3 4 0 6 3 3 4 0 2 6 3 3 5 4 5 3 1 4 4 1 5 5 3 4 2 5 2 2 3 4 2 1 3 2 2 1 1 1 1 3 0 0"),
    table("1 0 1 1 0 0 3 1 0 3 2 2 0 1 1 1 0 1 0 1 0 0 0 2 1 0 0 0 1 1 0 2 3 3 1 1 2 1 1 1 1 2 4 2 0 0 1 4"),
    table("0 0 0 1 0 0 0 0 0 1 0 0 1 0 1"),
])  # fmt: skip

# Pelts in thousands, hares and lynx, 1900-1920: Hudson's Bay Company; Howard (2009), "Modeling basics".
HARES = table("30 47.2 70.2 77.4 36.3 20.6 18.1 21.4 22 25.4 27.1 40.3 57 76.6 52.3 19.5 11.2 7.6 14.6 16.2 24.7")
HUDSON_LYNX = table("4 6.1 9.8 35.2 59.4 41.7 19 13 8.3 9.1 7.4 8 12.3 19.5 45.7 51.1 29.7 15.8 9.7 10.1 8.6")

# Minutes between 272 eruptions of Old Faithful: Azzalini and Bowman (1990), Applied Statistics 39, 357-365.
FAITHFUL = table("""
79 54 74 62 85 55 88 85 51 85 54 84 78 47 83 52 62 84 52 79 51 47 78 69 74 83 55 76 78 79 73 77 66 80 74 52 48 80 59 90
80 58 84 58 73 83 64 53 82 59 75 90 54 80 54 83 71 64 77 81 59 84 48 82 60 92 78 78 65 73 82 56 79 71 62 76 60 78 76 83
75 82 70 65 73 88 76 80 48 86 60 90 50 78 63 72 84 75 51 82 62 88 49 83 81 47 84 52 86 81 75 59 89 79 59 81 50 85 59 87
53 69 77 56 88 81 45 82 55 90 45 83 56 89 46 82 51 86 53 79 81 60 82 77 76 59 80 49 96 53 77 77 65 81 71 70 81 93 53 89
45 86 58 78 66 76 63 88 52 93 49 57 77 68 81 81 73 50 85 74 55 77 83 83 51 78 84 46 83 55 81 57 76 84 77 81 87 77 51 78
60 82 91 53 78 46 77 84 49 83 71 80 49 75 64 76 53 94 55 76 50 82 54 75 78 79 78 78 70 79 70 54 86 50 90 54 54 77 79 64
""").ravel()
FAITHFUL = np.concatenate([
    FAITHFUL, table("75 47 86 63 85 82 57 82 67 74 54 83 73 73 88 80 71 83 56 79 78 84 58 83 43 60 75 81 46 90 46 74")
])  # fmt: skip

# Velocities of 82 galaxies in 1000 km/s: Roeder (1990), JASA 85, 617-624, after Postman, Huchra and Geller (1986).
GALAXIES = table(
    """
9.172 9.350 9.483 9.558 9.775 10.227 10.406 16.084 16.170 18.419 18.552 18.600 18.927 19.052 19.070 19.330 19.343
19.349 19.440 19.473 19.529 19.541 19.547 19.663 19.846 19.856 19.863 19.914 19.918 19.973 19.989 20.166 20.175 20.179
20.196 20.215 20.221 20.415 20.629 20.795 20.821 20.846 20.875 20.986 21.137 21.492 21.701 21.814 21.921 21.960 22.185
22.209 22.242 22.249 22.314 22.374 22.495 22.746 22.747 22.888 22.914 23.206 23.241 23.263 23.484 23.538 23.542 23.666
23.706 23.711 24.129 24.285 24.289 24.366 24.717 24.990 25.633 26.690 26.995 32.065 32.789 34.279
""".replace("\n", " ")
)
