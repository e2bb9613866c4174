"""The places at which a network's modules hold their tensors."""

from torch import nn


def places(module: nn.Module) -> dict[str, list[str]]:
    """Return all places of each parameter and buffer, by its first name.

    A module with several names is one place; a tensor that modules share has a place in each.
    """
    own = (*module.named_parameters(), *module.named_buffers())
    names = {id(x): name for name, x in reversed(own)}
    found: dict[str, list[str]] = {name: [] for name in names.values()}
    seen = set()
    for path, owner in module.named_modules():
        for attribute, x in (*owner._parameters.items(), *owner._buffers.items()):
            if x is not None and (id(owner), attribute) not in seen:
                seen.add((id(owner), attribute))
                found[names[id(x)]].append(f"{path}.{attribute}" if path else attribute)
    return found
