"""Sides of images that networks reach by doubling."""

SMALLEST = 4  # side of the first feature map


def doublings(image_size: int) -> int:
    """Count how often the side doubles from 4 to `image_size`; raises ValueError if it cannot."""
    count = image_size.bit_length() - SMALLEST.bit_length()
    if count < 1 or SMALLEST << count != image_size:
        raise ValueError(f"image_size must be a power of two and at least 8, got {image_size}")
    return count
