"""What images of 1, 3 and 4 channels hold."""

IMAGE_FORMS = {1: "grayscale", 3: "RGB", 4: "RGBA with premultiplied alpha"}
