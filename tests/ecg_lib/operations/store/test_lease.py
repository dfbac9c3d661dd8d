"""The lease of releases: one machine at a time, and never for long."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecg_lib.operations.store.folder_objects import FolderObjects
from ecg_lib.operations.store.lease import KEY, LEASE_S, LeaseHeldError, leased
from ecg_lib.operations.store.objects import ObjectStore, StoreError


def test_a_lease_that_is_held_is_refused_until_it_is_given_back(store: ObjectStore) -> None:
    with (
        leased(store, owner="a:/home", wait_s=0.0),
        pytest.raises(LeaseHeldError, match="a:/home does"),
        leased(store, owner="b:/home", wait_s=0.0),
    ):
        pass
    with leased(store, owner="b:/home", wait_s=0.0):
        pass


def test_the_lease_of_a_dead_machine_expires(store: ObjectStore) -> None:
    now_s = 1000.0
    dead = leased(store, owner="a:/home", wait_s=0.0, now=lambda: now_s)
    dead.__enter__()
    with (
        pytest.raises(LeaseHeldError),
        leased(store, owner="b:/home", wait_s=0.0, now=lambda: now_s + LEASE_S - 1),
    ):
        pass
    with leased(store, owner="b:/home", wait_s=0.0, now=lambda: now_s + LEASE_S):
        dead.__exit__(None, None, None)  # it was only slow: the lease of the other one stays
        with (
            pytest.raises(LeaseHeldError, match="b:/home does"),
            leased(store, owner="c:/home", wait_s=0.0, now=lambda: now_s + LEASE_S),
        ):
            pass


def test_a_home_takes_its_own_lease_over_at_once(store: ObjectStore) -> None:
    leased(store, owner="a:/home", wait_s=0.0).__enter__()  # and the process is killed
    with leased(store, owner="a:/home", wait_s=0.0):
        pass


def test_an_unreadable_lease_counts_as_expired(store: ObjectStore) -> None:
    store.write(KEY, b"{")
    with leased(store, owner="a:/home", wait_s=0.0):
        pass


@pytest.mark.parametrize("until", ["1e300", "Infinity", "NaN", f"{1000 + LEASE_S + 61}"])
def test_a_lease_longer_than_any_can_be_counts_as_expired(store: ObjectStore, until: str) -> None:
    store.write(KEY, b'{"owner": "b:/home", "token": "x", "until_s": %s}' % until.encode())
    with leased(store, owner="a:/home", wait_s=0.0, now=lambda: 1000.0):
        pass


def test_a_machine_whose_clock_is_fast_holds_its_lease(store: ObjectStore) -> None:
    with (
        leased(store, owner="a:/home", wait_s=0.0, now=lambda: 1030.0),
        pytest.raises(LeaseHeldError),
        leased(store, owner="b:/home", wait_s=0.0, now=lambda: 1000.0),
    ):
        pass


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_store_without_conditional_writes_is_refused(
    tmp_path: Path, ignored: str, *, is_first: bool
) -> None:
    class Careless(FolderObjects):
        def replace(self, key: str, content: bytes, *, expected: str | None) -> str:
            if ignored == ("If-None-Match" if expected is None else "If-Match"):
                self.write(key, content)
                return str(self.find_version(key))
            return super().replace(key, content, expected=expected)

    if not is_first:
        with leased(FolderObjects(tmp_path), owner="a:/home", wait_s=0.0):
            pass
    with (
        pytest.raises(StoreError, match=rf"must have conditional writes \({ignored}\)"),
        leased(Careless(tmp_path), owner="a:/home", wait_s=0.0),
    ):
        pass
