"""The line: who is next, round robin over network addresses and, at one address, over its visitors."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Line(Generic[Item]):
    """Each visitor's own items come in the order in which they joined. Not safe to use from several threads."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, OrderedDict[str, deque[Item]]] = OrderedDict()
        self._served = ("", "")  # address and visitor of the item taken last

    def join(self, address: str, visitor: str, item: Item) -> None:
        """Behind the visitor's others. A visitor and an address that have none stand behind those that have, but before
        those that are being served."""
        self._addresses.setdefault(address, OrderedDict()).setdefault(visitor, deque()).append(item)
        self._served_last()

    def leave(self, address: str, visitor: str, item: Item) -> None:
        """Takes out an item that waits. Raises KeyError or ValueError where it does not."""
        items = self._addresses[address][visitor]
        items.remove(item)
        self._tidy(address, visitor)

    def take(self) -> Item | None:
        """The next item, if any; its visitor and its address go behind the others, also behind those who
        join before the next is taken."""
        if not self._addresses:
            return None
        address, visitors = next(iter(self._addresses.items()))
        visitor, items = next(iter(visitors.items()))
        item = items.popleft()
        self._served = (address, visitor)
        self._served_last()
        self._tidy(address, visitor)
        return item

    def order(self) -> list[Item]:
        """All items as they will be taken if nobody joins or leaves."""
        addresses = deque(deque(deque(items) for items in visitors.values()) for visitors in self._addresses.values())
        order = []
        while addresses:
            visitors = addresses.popleft()
            items = visitors.popleft()
            order.append(items.popleft())
            if items:
                visitors.append(items)
            if visitors:
                addresses.append(visitors)
        return order

    def _served_last(self) -> None:
        address, visitor = self._served
        if address in self._addresses:
            self._addresses.move_to_end(address)
            if visitor in self._addresses[address]:
                self._addresses[address].move_to_end(visitor)

    def _tidy(self, address: str, visitor: str) -> None:
        if not self._addresses[address][visitor]:
            del self._addresses[address][visitor]
        if not self._addresses[address]:
            del self._addresses[address]
