"""Which layers of an encoder: an index such as `9`, or a range such as `6:12`, both ends included."""

from hilbert_ray.config.constraints import ConfigError


def is_layer_range(value: str) -> bool:
    """Return whether a text is an index of a layer or a range of them."""
    numbers = value.split(":")
    return (
        len(numbers) in (1, 2)
        and all(number.isascii() and number.isdigit() and len(number) <= 4 for number in numbers)
        and int(numbers[0]) <= int(numbers[-1])
    )


def layer_range(value: str, count: int, what: str, setting: str = "layer") -> slice:
    """Return the layers that a setting chooses of `count`, the first being 0.

    Args:
        value: `all`, an index, or a range.
        count: of layers, hidden states.
        what: has them, for the message, such as `encoder hf:...`.
        setting: that chooses, for the message.

    Raises:
        ConfigError: for a layer beyond the last.
    """
    if value == "all":
        return slice(0, count)
    numbers = [int(number) for number in value.split(":")]
    if numbers[-1] >= count:
        raise ConfigError(
            f"{what} has hidden states 0 to {count - 1}, but {setting} is {value}; set it to `all` or to "
            "numbers in this range"
        )
    return slice(numbers[0], numbers[-1] + 1)
