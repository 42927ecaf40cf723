"""Colours that stay apart for colour-blind readers, shared by figures and pictures."""

# After Okabe and Ito, as red, green, blue in hexadecimal.
OKABE_ITO = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000",
)  # fmt: skip
