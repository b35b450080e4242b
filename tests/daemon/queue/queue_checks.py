"""Compares Redis with the model: records, places, counts, and the owner of every key."""

from __future__ import annotations

from tests.daemon.queue.model_items import FINAL, Group, Item
from tests.daemon.queue.queue_model import QueueModel
from tests.daemon.queue.queue_reading import BY_WORK, Reading


def check_record(item: Item, record: dict[str, str]) -> None:
    names = ("attempts", "deliveries", "throttles", "crashes", "epoch")
    found = {name: int(record.get(name) or 0) for name in names}
    assert (item.uid, record["state"], found) == (
        *(item.uid, item.state, {name: getattr(item, name) for name in names}),
    )
    assert int(record.get("unknowns") or 0) == item.unknowns
    calls = {name: int(record.get(f"calls_{name}") or 0) for name in ("yes", "maybe")}
    assert calls == {name: item.calls[name] for name in calls}


def check_place(item: Item, reading: Reading) -> None:
    """An unended item is in exactly one place; an ended item may have a tombstone in a queue."""
    uid = str(item.uid)
    places = reading.places.get(uid, [])
    if item.state == "running":
        assert places == ["pending"], f"{uid} is running: {places}"
        entry, worker = reading.pending[uid]
        assert entry == reading.records[uid]["entry"]
        assert item.silent == (worker == "silent")
    elif not item.waits:
        assert places in ([], ["ring"], ["backlog"]), f"{uid} is {item.state}: {places}"
    elif item.due_us is not None:
        assert places == ["delayed"], f"{uid} is {item.state} and not due: {places}"
    else:
        assert places in (["ring"], ["backlog"]), f"{uid} is {item.state}: {places}"


def check_group(group: Group, record: dict[str, str]) -> None:
    counts = {
        name: int(record[name]) for name in (*FINAL, "queued", "throttled", "retry_wait", "running", "held")
    }
    found = {name: count for name, count in counts.items() if count}
    assert (group.gid, found) == (group.gid, dict(group.counts()))
    assert int(record["total"]) == sum(found.values())
    assert int(record["open"]) == group.open
    assert record["state"] == group.state


def check_owners(model: QueueModel, reading: Reading) -> None:
    """Every key is the installation's, or a living piece of work owns it, or it has a time to live."""
    ended = {
        gid for gid, group in model.groups.items() if group.state != "running" and gid not in reading.closing
    }
    for name, is_mortal in reading.mortal.items():
        match = BY_WORK.match(name)
        if match is None:
            continue
        owner = match["name"]
        if match["kind"] == "item":
            item = model.items[owner]
            gone = item.state in FINAL if item.group is None else item.group.gid in ended
            alive = item.state not in FINAL or (item.group is not None and _is_open(item.group, reading))
        elif match["kind"] in {"batch", "members"}:
            gone = owner in ended
            alive = _is_open(model.groups[owner], reading)
        else:
            continue
        assert is_mortal or not gone, f"{name} stays for ever"
        assert not is_mortal or not alive, f"{name} would vanish while it is needed"


def _is_open(group: Group, reading: Reading) -> bool:
    """Whether it runs and the janitor has nothing to do for it."""
    return group.state == "running" and group.gid not in reading.closing
