"""What a layer is called: by the path of its weight inside the model, and by its class."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from flax import linen, nnx
from jax import tree_util

from sigprop.gradients.parameters import path_name
from sigprop.program import Flow, Site

__all__ = ["Names", "kinds_by_path"]


class Names:
    """Names of sites: the layer's, where its path holds one weight, else the weight's own."""

    def __init__(
        self, names: Sequence[str], ranks: Sequence[int], flow: Flow, kinds: dict[str, str]
    ):
        self.names, self.ranks, self.kinds = names, ranks, kinds
        weights = {self.weight(site) for site in flow.sites if site.kind != "scale"}
        self._own = Counter(names[place].rpartition("/")[0] for place in weights)

    def weight(self, site: Site) -> int:
        """The parameter that a site is named after: of several, the one of most axes."""
        return max(site.largest, key=lambda place: (self.ranks[place], self.names[place]))

    def path(self, site: Site) -> str:
        """Of the site, without the number of its use."""
        name = self.names[self.weight(site)]
        parent = name.rpartition("/")[0]
        alone = self._own[parent] <= 1 if site.kind != "scale" else parent in self.kinds
        return parent if parent and alone else name

    def kind(self, site: Site) -> str:
        """Class of the layer, where it is one; else the operation."""
        path = self.path(site)
        if path in self.kinds:
            return self.kinds[path]
        automatic = re.fullmatch(r"([A-Z]\w*)_\d+", path.rpartition("/")[2])
        return automatic[1] if automatic else site.kind


def kinds_by_path(model: Any) -> dict[str, str]:
    """Class names of the callable parts of a model, by path."""
    found: dict[str, str] = {}

    def visit(path: tuple, node: Any) -> None:
        if isinstance(node, nnx.Module):
            for inner, module in nnx.iter_modules(node):
                keys = (*path, *map(tree_util.DictKey, inner))
                found.setdefault(path_name(keys), type(module).__name__)
            return
        if isinstance(node, linen.Module):
            return
        inside = tree_util.tree_flatten_with_path(node, is_leaf=lambda part: part is not node)[0]
        children = [(keys, child) for keys, child in inside if keys]
        if callable(node) and children:
            found.setdefault(path_name(path), type(node).__name__)
        for keys, child in children:
            visit((*path, *keys), child)

    visit((), model)
    found.pop("", None)
    return found
