"""Files of the test data where prepctl and Pillow 9.4 differ, each with its reason.

docs/pixels.md has the same list. test_pixels.py fails for a file that differs
and is not here, and for one that is here and does not differ.
"""

# Pillow's own header parser refuses the file, libjpeg decodes it without a warning: it is decoded.
DECODED_THOUGH_PILLOW_REFUSES = {
    "pillow/Tests__images__truncated_exif_dpi.jpg":
        "the EXIF block is cut off inside its first eight bytes; Pillow stops there while it looks for a resolution, "
        "which no pixel depends on",
}
