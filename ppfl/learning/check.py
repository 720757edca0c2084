"""What a data folder holds and what is wrong with it, before anyone trains on it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ppfl.errors import DataError, UnreadableImageError
from ppfl.learning.sources import ImageRecord, count_left_out, layout_of, read_records
from ppfl.xray.dicom import DicomFacts
from ppfl.xray.pictures import read_grey

_FEW_IMAGES = 10
_SMALL_SIDE = 64
_LARGE_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class DicomReport:
    """The readable DICOM files of a folder: how many, and of how many each thing is true.

    The fields are those of `DicomFacts`; ``identifying`` counts files by the keyword of a filled
    attribute, and holds no value of any. ``several_windows`` of them offer more than one.
    """

    files: int
    burned_in: dict[str, int]
    identifying: dict[str, int]
    modalities: dict[str, int]
    views: dict[str, int]
    several_windows: int


@dataclass(frozen=True, slots=True)
class FolderReport:
    """A data folder as `check_folder` found it.

    ``classes`` and ``sites`` count images, readable or not; an image without a site is in no
    site's count. ``left_out`` counts those of each label that is none of the study's classes, if
    there is a study. ``sizes`` are (width, height) of the images with the fewest and most pixels.
    ``modes`` are pillow's names for the stored pixels. ``duplicates`` are images that look the
    same to the last pixel, whatever their files are called, and ``contradictions`` those of them
    that are filed under different classes. ``dicom`` counts what DICOM files tell beside their
    pixels; ``annotated`` are those that say their pixels hold text. ``warnings`` say in a sentence
    each what to do.
    """

    layout: str
    classes: dict[str, int]
    left_out: dict[str, int]
    sites: dict[str, int]
    groups: int
    largest_group: int
    groups_with_two_classes: int
    sizes: tuple[tuple[int, int], tuple[int, int]]
    modes: dict[str, int]
    duplicates: tuple[tuple[Path, ...], ...]
    contradictions: tuple[tuple[Path, ...], ...]
    unreadable: tuple[Path, ...]
    dicom: DicomReport
    annotated: tuple[Path, ...]
    warnings: tuple[str, ...]


def check_folder(
    folder: Path,
    *,
    classes: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> FolderReport:
    """A report on every image of a folder or CSV table that `read_records` can read.

    Every image is decoded; one that cannot be is counted, not raised. ``classes`` are those of a
    study that the folder is meant for. ``progress`` is called with the number of images done so
    far, and of all.

    Raises:
        DataError: the folder or table cannot be read, lists files that are missing, or not one
            image can be decoded.
    """
    records = read_records(folder, unreadable_ok=True)
    left_out = count_left_out(folder, classes) if classes else {}
    looks = _look_at_all(records, progress)
    pairs = list(zip(records, looks, strict=True))
    seen = [(record, look) for record, look in pairs if isinstance(look, _Look)]
    failed = [(record, look) for record, look in pairs if isinstance(look, UnreadableImageError)]
    if not seen:
        raise DataError(
            f"{folder}: none of {len(records)} images can be decoded; the first is {failed[0][1]}",
            hint="open one of them with an image viewer; export them anew as PNG",
        )
    by_pixels: defaultdict[str, list[ImageRecord]] = defaultdict(list)
    for record, look in seen:
        by_pixels[look.pixels].append(record)
    copies = [same for same in by_pixels.values() if len(same) > 1]
    sizes = sorted({look.size for _, look in seen}, key=lambda size: (size[0] * size[1], size))
    dicom = count_dicom([look.dicom for _, look in seen if look.dicom])
    return FolderReport(
        layout=layout_of(folder),
        classes=_counts(record.label for record in records),
        left_out=left_out,
        sites=_counts(record.site for record in records if record.site),
        groups=len({record.group for record in records}),
        largest_group=max(_counts(record.group for record in records).values()),
        groups_with_two_classes=_groups_with_two_classes(records),
        sizes=(sizes[0], sizes[-1]),
        modes=_counts(look.mode for _, look in seen),
        duplicates=_paths(copies),
        contradictions=_paths(same for same in copies if len({r.label for r in same}) > 1),
        unreadable=tuple(record.path for record, _ in failed),
        dicom=dicom,
        annotated=tuple(r.path for r, look in seen if look.dicom and look.dicom.burned_in == "yes"),
        warnings=(
            *_warnings_of_labels(left_out, classes),
            *_warnings(records, [look for _, look in seen], copies),
            *_warnings_of_failures([error for _, error in failed], len(records)),
            *_warnings_of_dicom(dicom),
        ),
    )


def count_dicom(facts: Sequence[DicomFacts]) -> DicomReport:
    """A report on DICOM files that were read."""
    return DicomReport(
        files=len(facts),
        burned_in=_counts(told.burned_in for told in facts),
        identifying=_counts(keyword for told in facts for keyword in told.identifying),
        modalities=_counts(told.modality for told in facts),
        views=_counts(told.view for told in facts),
        several_windows=sum(told.windows > 1 for told in facts),
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """What decoding one image told of it; ``pixels`` is a digest."""

    size: tuple[int, int]
    mode: str
    pixels: str
    dicom: DicomFacts | None


def _look_at_all(
    records: Sequence[ImageRecord], progress: Callable[[int, int], None] | None
) -> list[_Look | UnreadableImageError]:
    looks: list[_Look | UnreadableImageError] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for look in pool.map(_look_at, (record.path for record in records)):
            looks.append(look)
            if progress:
                progress(len(looks), len(records))
    return looks


def _look_at(path: Path) -> _Look | UnreadableImageError:
    try:
        grey = read_grey(path)
    except UnreadableImageError as error:
        return error
    width, height = grey.picture.size
    digest = hashlib.sha256(f"{width}x{height}:".encode() + grey.picture.tobytes())
    return _Look((width, height), grey.stored_mode, digest.hexdigest(), grey.dicom)


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _paths(copies: Iterable[Sequence[ImageRecord]]) -> tuple[tuple[Path, ...], ...]:
    return tuple(tuple(record.path for record in same) for same in copies)


def _groups_with_two_classes(records: Sequence[ImageRecord]) -> int:
    pairs = {(record.group, record.label) for record in records}
    return sum(classes > 1 for classes in Counter(group for group, _ in pairs).values())


def _warnings(
    records: Sequence[ImageRecord],
    looks: Sequence[_Look],
    copies: Sequence[Sequence[ImageRecord]],
) -> Iterator[str]:
    classes = _counts(record.label for record in records)
    if len(classes) == 1:
        yield (
            f"There is one class only, {next(iter(classes))}: alone this site teaches nothing "
            "that sets classes apart. Add X-rays of another class."
        )
    few = [f"{label} ({images})" for label, images in classes.items() if images < _FEW_IMAGES]
    if few:
        yield (
            f"Classes with fewer than {_FEW_IMAGES} images: {', '.join(few)}. Figures for so few "
            "mean little; add more, or leave the class out of the study."
        )
    small = sum(min(look.size) < _SMALL_SIDE for look in looks)
    if small:
        yield (
            f"Images with a side below {_SMALL_SIDE} pixels: {small}. See whether they are "
            "thumbnails, and use the originals."
        )
    yield from _warnings_of_copies(copies)
    yield from _warnings_of_groups(records)
    yield from _warnings_of_sites(records)


def _warnings_of_labels(left_out: dict[str, int], classes: Sequence[str]) -> Iterator[str]:
    if left_out:
        labels = ", ".join(f"{label} ({images})" for label, images in left_out.items())
        yield (
            f"X-rays of no class of the study, which it leaves out: {sum(left_out.values())}, "
            f"labelled {labels}. If they belong to it, name them as it does: {', '.join(classes)}."
        )


def _warnings_of_failures(errors: Sequence[UnreadableImageError], images: int) -> Iterator[str]:
    if errors:
        yield (
            f"Images that cannot be read: {len(errors)} of {images}. Take them out or export them "
            f"anew, because training stops at the first. That is {errors[0]} ({errors[0].hint})."
        )


def _warnings_of_dicom(dicom: DicomReport) -> Iterator[str]:
    annotated = dicom.burned_in.get("yes", 0)
    silent = dicom.burned_in.get("unknown", 0)
    if annotated:
        yield (
            f"DICOMs whose pixels hold text about the patient: {annotated}. A network sees it and "
            "may learn it; have it removed, or take these files out."
        )
    if silent:
        yield (
            f"DICOMs that do not say whether their pixels hold text: {silent}. Look at some of "
            "them, at the corners first."
        )
    if dicom.identifying:
        yield (
            "DICOMs hold attributes that identify, as they come from an archive; ppfl uses the "
            "PatientID, hashed, to keep a patient together, and none of the others."
        )
    if dicom.several_windows:
        yield (
            f"DICOMs with more than one window: {dicom.several_windows}. The first is used, as "
            "viewers do."
        )


def _warnings_of_copies(copies: Sequence[Sequence[ImageRecord]]) -> Iterator[str]:
    contradictory = [same for same in copies if len({record.label for record in same}) > 1]
    leaking = [same for same in copies if len({record.group for record in same}) > 1]
    if contradictory:
        yield (
            f"Pictures filed under two classes, the same to the last pixel: {len(contradictory)}. "
            "Find out which class is right and remove the other copy."
        )
    if leaking:
        yield (
            f"Pictures with copies in different groups: {len(leaking)}. A network may be tested "
            "on what it was trained on; remove the copies, or give them one group in a "
            "manifest.csv."
        )
    if copies and not contradictory and not leaking:
        yield f"Pictures that are there more than once: {len(copies)}. Remove the copies."


def _warnings_of_groups(records: Sequence[ImageRecord]) -> Iterator[str]:
    mixed = _groups_with_two_classes(records)
    if mixed:
        yield (
            f"Groups with more than one class: {mixed}. Right for patients who fell ill or got "
            "well; else correct the labels."
        )
    group, most = Counter(record.group for record in records).most_common(1)[0]
    if most > max(_FEW_IMAGES, _LARGE_SHARE * len(records)):
        yield (
            f"One group, {group}, holds {most} of {len(records)} images, which all fall on one "
            "side of a split. If they are of several patients, say so in a manifest.csv."
        )


def _warnings_of_sites(records: Sequence[ImageRecord]) -> Iterator[str]:
    sites_of: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        sites_of[record.label].add(record.site)
    sole = sorted(label for label, sites in sites_of.items() if len(sites) == 1)
    if sole and len({record.site for record in records}) > 1:
        yield (
            f"Classes that come from one site only: {', '.join(sole)}. A network can learn the "
            "hospital instead of the disease; compare with results on another hospital's X-rays."
        )
