"""Products by number: what an array can hold."""

from __future__ import annotations

from array import array

from streams.partitioning import partition_of


class Products(dict[str, int]):
    """Codes of product keys, from 1 in the order in which they were met, and the partition of each."""

    def __init__(self, partitions: int) -> None:
        super().__init__()
        self.names = [""]
        self.partitions = array("i", [0])  # [codes]
        self._partitions = partitions

    def __missing__(self, product: str) -> int:
        code = self[product] = len(self.names)
        self.names.append(product)
        self.partitions.append(partition_of(product, self._partitions))
        return code
