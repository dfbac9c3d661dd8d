"""Releases are signed when they are made; those of earlier code once, and never silently later."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from ecg_lib.operations.keys.signatures import SignatureError, check_code, has_key, key_path
from ecg_lib.operations.releases import CURRENT, Release, bento_source, write_release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import append_event, read_ledger
from flows.doors.release_history import EventKind, LedgerEvent
from flows.release.integrity import doctor
from flows.release.integrity.signing import SigningError
from flows.release.load_released import load_released_bundle
from flows.release.switch_service import read_current
from flows.release.transaction import (
    INTENT,
    Intent,
    Step,
    Steps,
    recover,
    release_model,
    roll_back,
)

Make = Callable[..., Release]


class Service(Protocol):
    """The stand-in for the service, see ``conftest.py``."""

    @property
    def steps(self) -> Steps: ...


def release_earlier(settings: Settings, release: Release) -> None:
    """Release as code without signatures did."""
    event = LedgerEvent(
        id=f"event of {release.bento_tag}",
        kind=EventKind.RELEASE,
        who="earlier code",
        why="a release",
        at="2026-01-01T00:00:00+00:00",
        before=None,
        release=release,
        is_verified=True,
    )
    append_event(settings.ledger_dir, event, reason="release", metrics={}, model_card="")
    write_release(settings.serving_dir / CURRENT, release)


def kinds(settings: Settings) -> list[str]:
    return [entry.event.kind.value for entry in reversed(read_ledger(settings.ledger_dir).entries)]


@pytest.fixture
def earlier(settings: Settings, make_stored: Make) -> list[Release]:
    releases = [make_stored("1"), make_stored("2")]
    for release in releases:
        release_earlier(settings, release)
    return releases


def test_what_was_released_before_is_signed_once_and_the_ledger_says_so(
    settings: Settings,
    service: Service,
    earlier: list[Release],
) -> None:
    recover(settings, steps=service.steps)
    assert kinds(settings) == ["release", "release", "signed", "signed"]
    for release in earlier:
        check_code(settings, release)
    recover(settings, steps=service.steps)
    assert len(kinds(settings)) == 4
    outcome = roll_back(settings, why="worse", steps=service.steps)
    assert outcome.release.bento_tag == "ecg:1-a"


def test_the_doctor_signs_what_was_released_before_unless_it_only_reports(
    settings: Settings, earlier: list[Release]
) -> None:
    problems = {one.problem for one in doctor.examine(settings, is_mending=False)}
    assert any("is not signed yet, as this home has no key of releases" in one for one in problems)
    assert not has_key(settings)
    findings = doctor.examine(settings)
    assert ("signature", "releases of earlier code had none, they are signed now", True) in findings
    for release in earlier:
        check_code(settings, release)
    assert "signature" not in {one.store for one in doctor.examine(settings)}
    key_path(settings).unlink()
    (lost,) = {one for one in doctor.examine(settings) if "is missing, and" in one.problem}
    assert not lost.is_mended


def test_an_upgrade_that_was_killed_is_finished_by_the_next_start(
    settings: Settings,
    service: Service,
    earlier: list[Release],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("make_key", "sign_release", "append_event"):
        with monkeypatch.context() as patch:
            patch.setattr(f"flows.release.integrity.signing.{module}", _die)
            with pytest.raises(KeyboardInterrupt):
                recover(settings, steps=service.steps)
    recover(settings, steps=service.steps)
    assert kinds(settings) == ["release", "release", "signed", "signed"]
    for release in earlier:
        check_code(settings, release)


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_changed_before_the_upgrade_is_not_signed(
    settings: Settings,
    service: Service,
    earlier: list[Release],
) -> None:
    first, second = earlier
    (bento_source(settings.bentoml_home, first) / "bentos" / "code.py").write_text("other")
    recover(settings, steps=service.steps)
    check_code(settings, second)
    with pytest.raises(SignatureError, match="has no signature of this home"):
        roll_back(settings, why="worse", steps=service.steps)
    assert read_current(settings) == second


def _add(name: str) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("")

    return change


def _link_package(source: Path) -> None:
    outside = source.parent / "outside"
    (source / "ecg_lib").rename(outside)
    (source / "ecg_lib").symlink_to(outside)


def _link_beside(source: Path) -> None:
    outside = source.parent / "outside"
    outside.mkdir()
    (source / "ecg_lib" / "code").symlink_to(outside)


PLANTED = {
    "a module that Python runs at its start": _add("sitecustomize.py"),
    "a module in place of a library": _add("numpy/__init__.py"),
    "a folder that the hash leaves out": _add("ecg_lib/training/cnn.py"),
    "a package that is a link": _link_package,
    "a link in place of a module": _link_beside,
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_code_that_no_hash_covers_is_not_signed_at_the_upgrade(
    settings: Settings,
    service: Service,
    earlier: list[Release],
    plant: Callable[[Path], None],
) -> None:
    first, second = earlier
    plant(bento_source(settings.bentoml_home, first))
    recover(settings, steps=service.steps)
    check_code(settings, second)
    with pytest.raises(SignatureError):
        check_code(settings, first)
    with pytest.raises(SigningError, match="ecg:1-a is not signed: "):
        doctor.sign(settings, "1")


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_code_that_no_hash_covers_is_not_released(
    settings: Settings, service: Service, make_stored: Make, plant: Callable[[Path], None]
) -> None:
    wanted = make_stored("1")
    plant(bento_source(settings.bentoml_home, wanted))
    with pytest.raises(SigningError, match="must be in the store as it was packaged"):
        release_model(settings, wanted, why="first", steps=service.steps)
    assert read_current(settings) is None


def test_a_current_release_that_the_ledger_does_not_know_is_not_signed_at_the_upgrade(
    settings: Settings,
    service: Service,
    earlier: list[Release],
    make_stored: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    planted = make_stored("9", "z")
    write_release(settings.serving_dir / CURRENT, planted)
    recover(settings, steps=service.steps)
    for release in earlier:
        check_code(settings, release)
    with pytest.raises(SignatureError, match="has no signature of this home"):
        check_code(settings, planted)
    assert "ecg:9-z is not signed and will not be served: look at it, then" in caplog.text
    noted = read_ledger(settings.ledger_dir).entries[0]
    assert (noted.event.kind, noted.event.is_signed) == (EventKind.NOTED, False)
    assert doctor.sign(settings, "9") == planted
    check_code(settings, planted)


@pytest.mark.parametrize("is_switched", [False, True])
def test_a_release_that_the_upgrade_interrupts_is_undone_and_not_signed(
    settings: Settings,
    service: Service,
    earlier: list[Release],
    make_stored: Make,
    *,
    is_switched: bool,
) -> None:
    wanted = make_stored("3")
    intent = Intent(
        id="open",
        kind=EventKind.RELEASE,
        who="earlier code",
        why="release model 3",
        at="2026-01-01T00:00:00+00:00",
        before=earlier[1],
        wanted=wanted,
    )
    (settings.serving_dir / INTENT).write_text(intent.model_dump_json())
    if is_switched:
        write_release(settings.serving_dir / CURRENT, wanted)
    assert recover(settings, steps=service.steps) == earlier[1]
    with pytest.raises(SignatureError, match="has no signature of this home"):
        check_code(settings, wanted)
    entry = read_ledger(settings.ledger_dir).entries[0]
    expected = EventKind.REFUSED if is_switched else EventKind.ABANDONED
    assert (entry.event.kind, entry.event.is_signed) == (expected, False)


def test_an_event_says_that_its_release_is_signed_only_when_it_is(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    release_model(settings, make_stored("1"), why="first", steps=service.steps)

    def die(step: Step) -> None:
        if step is Step.INTENT_WRITTEN:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        release_model(
            settings, make_stored("2"), why="second", steps=replace(service.steps, on_step=die)
        )
    unsigned = Intent.model_validate_json((settings.serving_dir / INTENT).read_bytes())
    for path in settings.signatures_dir.glob("*.json"):
        if '"ecg:2-a"' in path.read_text():
            path.unlink()
    recover(settings, steps=service.steps)
    events = [entry.event for entry in reversed(read_ledger(settings.ledger_dir).entries)]
    assert [(one.kind, one.is_signed) for one in events] == [
        (EventKind.RELEASE, True),
        (EventKind.ABANDONED, False),
    ]
    assert events[1].id == unsigned.id


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_torn_signature_is_written_again_by_the_same_release(
    settings: Settings, service: Service, make_stored: Make, version: str
) -> None:
    """Model 2 is the current one."""
    for one in "12":
        release_model(settings, make_stored(one), why="release", steps=service.steps)
    for path in settings.signatures_dir.iterdir():
        path.write_bytes(b"")
    wanted = make_stored(version)
    release_model(settings, wanted, why="again", force=True, steps=service.steps)
    check_code(settings, wanted)
    other = make_stored("1" if version == "2" else "2")
    (bento_source(settings.bentoml_home, other) / "bentos" / "code.py").write_text("other")
    with pytest.raises(SigningError, match="its code does not have the hash"):
        release_model(settings, other, why="again", force=True, steps=service.steps)


def test_a_signature_by_hand_before_the_first_start_does_not_end_the_upgrade(
    settings: Settings, service: Service, earlier: list[Release]
) -> None:
    with pytest.raises(SignatureError, match=r"is not signed yet.* `ecg up` or `ecg doctor`"):
        load_released_bundle(settings)
    doctor.sign(settings, "2")
    recover(settings, steps=service.steps)
    for release in earlier:
        check_code(settings, release)
    outcome = roll_back(settings, why="worse", steps=service.steps)
    assert outcome.release.bento_tag == "ecg:1-a"


def test_a_doctor_that_only_reports_leaves_every_file_as_it_is(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    release = make_stored("1")
    release_model(settings, release, why="first", steps=service.steps)
    compiled = bento_source(settings.bentoml_home, release) / "bentos" / "__pycache__"
    compiled.mkdir(exist_ok=True)
    (compiled / "code.cpython-311.pyc").write_bytes(b"x")
    for path in settings.signatures_dir.iterdir():
        path.unlink()
    before = _read_files(settings.home)
    assert "signature" in {one.store for one in doctor.examine(settings, is_mending=False)}
    assert _read_files(settings.home) == before


def _read_files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_release_that_appears_after_the_upgrade_is_never_signed_silently(
    settings: Settings,
    service: Service,
    earlier: list[Release],
    make_stored: Make,
) -> None:
    recover(settings, steps=service.steps)
    write_release(settings.serving_dir / CURRENT, make_stored("3"))
    recover(settings, steps=service.steps)
    with pytest.raises(SignatureError):
        check_code(settings, make_stored("3"))
    (finding,) = [one for one in doctor.examine(settings) if "no signature" in one.problem]
    assert not finding.is_mended
    assert "`ecg doctor --sign ecg:3-a`" in finding.problem


def test_code_bundle_and_release_file_that_are_rewritten_together_are_refused(
    settings: Settings,
    service: Service,
    make_stored: Make,
) -> None:
    release_model(settings, make_stored("1"), why="first", steps=service.steps)
    release_model(settings, make_stored("2"), why="second", steps=service.steps)
    source = bento_source(settings.bentoml_home, make_stored("1"))
    shutil.rmtree(source)
    shutil.copytree(bento_source(settings.bentoml_home, make_stored("3", "b")), source)
    with pytest.raises(SignatureError, match=r"restore it, or look at it and sign it with"):
        roll_back(settings, why="worse", steps=service.steps)
    forged = make_stored("3", "b").model_copy(update={"bento_tag": "ecg:1-a", "model_version": "1"})
    write_release(settings.serving_dir / CURRENT, forged)
    with pytest.raises(SignatureError, match="has no signature of this home"):
        check_code(settings, forged)


def test_a_release_must_be_in_the_store_as_it_was_packaged(
    settings: Settings,
    service: Service,
    make_stored: Make,
) -> None:
    wanted = make_stored("1")
    bundle = settings.bentoml_home / "models" / "ecg_bundle" / "1" / "bundle" / "manifest.json"
    bundle.write_text("other")
    with pytest.raises(SigningError, match="its bundle does not have the hash"):
        release_model(settings, wanted, why="first", steps=service.steps)
    make_stored("1")
    (bento_source(settings.bentoml_home, wanted) / "ecg_lib" / "code.py").write_text("other")
    with pytest.raises(SigningError, match="its code does not have the hash"):
        release_model(settings, wanted, why="first", steps=service.steps)
    assert read_current(settings) is None


def test_an_operator_signs_again_by_name_and_the_ledger_says_so(
    settings: Settings,
    service: Service,
    make_stored: Make,
) -> None:
    for version in ("1", "2"):
        release_model(settings, make_stored(version), why="release", steps=service.steps)
    key_path(settings).unlink()
    with pytest.raises(SigningError, match=r"the key of releases .* is missing"):
        recover(settings, steps=service.steps)
    assert not has_key(settings)
    assert doctor.sign(settings, "1").bento_tag == "ecg:1-a"
    check_code(settings, make_stored("1"))
    latest = read_ledger(settings.ledger_dir).entries[0]
    assert (latest.event.kind, latest.reason) == (
        EventKind.SIGNED,
        "sign model 1: signed by an operator",
    )
    problems = [one.problem for one in doctor.examine(settings) if one.store == "signature"]
    assert len(problems) == 1
    assert problems[0].startswith("ecg:2-a of model 2 is not what its signature says")
    roll_back(settings, why="worse", steps=service.steps)
    (bento_source(settings.bentoml_home, make_stored("2")) / "bentos" / "code.py").write_text("x")
    with pytest.raises(SigningError, match="ecg:2-a is not signed: its code does not"):
        doctor.sign(settings, "ecg:2-a")
