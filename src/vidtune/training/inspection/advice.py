"""From measurements of a few steps to the bottleneck and to advice. Every rule is a function here.

The thresholds say when a change is worthwhile: below them training gains less than the noise of a step.
"""

import math
from collections.abc import Iterator
from statistics import median

from vidtune.spelling import one_line
from vidtune.training.inspection.doctor import StepMeasurements

NOTABLE_WAIT = 0.1  # share of the time spent waiting for data
NOTABLE_PART = 0.03
HEADROOM = 1.2  # the advised number of workers is this much faster than needed
SLOW_FILE = 5.0  # times the median file
SLOW_SECONDS = 0.2
SLOW_FILES_NAMED = 3
LOW_FILL = 0.75
ROOMY = 0.45  # share of the memory in use below which using more of it is advised
MANY_PACKS = 8  # per step
STARVED = 0.5  # share of a worker's time spent computing below which it is said to wait
FOR_A_CORE = 0.5  # share of a worker's waiting time above which it waits for a core rather than for the disk
IDLE = 0.3  # busy share of the workers below which fewer are enough


def diagnose(found: StepMeasurements) -> tuple[str, list[str]]:
    """Returns the bottleneck in one sentence, and the advice, the most useful first."""
    rules = (
        no_workers,
        more_workers,
        starved_workers,
        slow_files,
        failed_files,
        grey_levels,
        packs,
        checkpointing,
        precision,
        compute_threads,
        idle_workers,
    )
    return bottleneck(found), [advice for rule in rules for advice in rule(found)]


def bottleneck(found: StepMeasurements) -> str:
    """Returns the part that limits the speed, in one sentence."""
    waiting, behind = found.waiting / found.seconds, falls_behind(found)
    transfer, optimizer = (found.parts[name] / found.seconds for name in ("transfer", "optimizer"))
    if waiting >= NOTABLE_WAIT or behind:
        text = f"data: {waiting:.0%} of the time was spent waiting for them"
        if waiting < NOTABLE_WAIT:
            text += ", and the packs that were ready at the start will run out"
        return (
            f"{text}; decoding takes {per_step(found, supply(found))} a step ({workers(found)}), "
            f"everything else {per_step(found, found.working)}"
        )
    if transfer >= NOTABLE_WAIT:
        return f"transfer to the device: {transfer:.0%} of the time; data wait {waiting:.0%}"
    if optimizer >= 1 / 3:
        return (
            f"the optimizer: {optimizer:.0%} of the time, the same however large the batch is; data wait {waiting:.0%}"
        )
    computing = (found.parts["forward"] + found.parts["backward"]) / found.seconds
    return f"computing: forward and backward take {computing:.0%} of the time, data keep up (wait {waiting:.0%})"


def no_workers(found: StepMeasurements) -> Iterator[str]:
    """Rule: decoding inside the training process takes its cores and its interpreter."""
    if found.workers == 0 and found.decoding:
        share = found.decoding / found.seconds
        yield (
            f"workers is 0: media are decoded in the training process, {per_step(found, found.decoding)} a step "
            f"({share:.0%} of the time), and a file that hangs stops it; set workers: {wanted_workers(found)}"
        )


def more_workers(found: StepMeasurements) -> Iterator[str]:
    """Rule: the workers decode more slowly than the device computes."""
    if not found.workers or not is_short_of_data(found) or not found.decoding:
        return
    need = (
        f"decoding takes {per_step(found, found.decoding)} of a worker a step, everything else "
        f"{per_step(found, found.working)}"
    )
    wanted = wanted_workers(found)
    if wanted > found.workers:
        yield f"set workers: {wanted} (now {found.workers}): {need}"
    enough = math.ceil(HEADROOM * found.decoding / found.working)
    if enough > max(wanted, found.workers):
        yield (
            f"{found.cores} cores cannot decode as fast as the device computes ({need}; {enough} workers would do): "
            "train on copies of the media with fewer pixels or more key frames, or with more cores for each device"
        )


def starved_workers(found: StepMeasurements) -> Iterator[str]:
    """Rule: the workers wait for the disk or for a core."""
    if not found.workers or not found.decoding or not is_short_of_data(found):
        return
    computing = found.decoding_cpu / found.decoding
    if computing >= STARVED:
        return
    start = f"workers compute only {computing:.0%} of their time"
    threads = found.threads if found.device == "cpu" else 1
    queued = found.decoding_queued
    if queued is not None and queued < FOR_A_CORE * (found.decoding - found.decoding_cpu):
        yield (
            f"{start}, the rest they wait for the disk: copy the media to a local disk, or set more workers than cores"
        )
    elif found.workers + threads > found.cores:
        yield (
            f"{start}: {found.workers} of them and {threads} compute threads share {found.cores} cores; lower workers "
            "or OMP_NUM_THREADS"
        )
    elif queued is not None:
        yield (
            f"{start}, {queued / found.decoding:.0%} they wait for a core: other programs use the cores "
            "of this machine, and these measurements hold for a busy machine only; stop them, or run the doctor when "
            "it is idle"
        )
    else:
        yield (
            f"{start}; this system does not tell whether the rest is the disk (copy the media to a local disk) or "
            "other programs that use the cores (run the doctor when the machine is idle)"
        )


def slow_files(found: StepMeasurements) -> Iterator[str]:
    """Rule: some files take far longer than the others; the slowest first."""
    usual = median(found.files.values()) if found.files else 0.0
    named = sorted(found.files.items(), key=lambda item: -item[1])[:SLOW_FILES_NAMED]
    for path, seconds in named:
        if seconds > max(SLOW_FILE * usual, SLOW_SECONDS) and path not in found.failed and len(found.files) > 2:
            yield (
                f"{path} takes {seconds:.2f} s to read, {seconds / usual:.0f} times the median file ({usual:.3f} s): "
                "store it with fewer pixels or more key frames, or leave it out by a lower media_timeout"
            )


def failed_files(found: StepMeasurements) -> Iterator[str]:
    """Rule: files that cannot be read cost time in every run."""
    if found.failed:
        path, reason = next(iter(found.failed.items()))
        yield (
            f"{len(found.failed)} of the files could not be read, such as {path}: {reason}; vidtune data check "
            "--decode finds all of them and has them left out"
        )


def grey_levels(found: StepMeasurements) -> Iterator[str]:
    """Rule: float pixels are four times as large as the grey levels that they come from."""
    share = found.parts["transfer"] / found.seconds
    if found.float_streams and found.device != "cpu" and share >= NOTABLE_PART:
        settings = ", ".join(f"{stream}: {{pixels: uint8}}" for stream in found.float_streams)
        yield (
            f"set media: {{{settings}}}: {megabytes(found.media_bytes / found.steps)} of pixels a step become a "
            f"quarter; their transfer takes {share:.0%} of the time (before it overlaps with computing)"
        )


def packs(found: StepMeasurements) -> Iterator[str]:
    """Rule: the packs are not full, or smaller than the device could process at once."""
    per, limit = found.packs / found.steps, found.stage.max_tokens_per_batch
    share = found.memory / found.memory_limit if found.memory_limit else 1.0
    if found.fill < LOW_FILL and per >= 2:
        yield (
            f"packs are {found.fill:.0%} full, {per:.1f} a step: max_tokens_per_batch {limit:,} leaves gaps; try "
            f"{2 * limit:,}, memory allowing ({share:.0%} in use)"
        )
    elif found.device == "cuda" and per > MANY_PACKS and share < ROOMY:
        yield (
            f"a step makes {per:.0f} passes and uses {share:.0%} of the device's memory: max_tokens_per_batch "
            f"{2 * limit:,} (now {limit:,}) makes half as many, each larger"
        )


def checkpointing(found: StepMeasurements) -> Iterator[str]:
    """Rule: recomputing activations saves memory that is not needed."""
    share = found.memory / found.memory_limit if found.memory_limit else 1.0
    if found.stage.gradient_checkpointing and share < ROOMY:
        yield (
            f"set gradient_checkpointing: false: only {share:.0%} of the memory is in use, and the backward pass "
            f"({per_step(found, found.parts['backward'])} a step) computes the forward pass again for it"
        )


def precision(found: StepMeasurements) -> Iterator[str]:
    """Rule: accelerators compute in bfloat16 many times faster than in float32."""
    if found.device == "cuda" and found.stage.precision == "float32" and not is_short_of_data(found):
        yield "set precision: bfloat16: the stage computes in float32, which uses a fraction of this device's speed"


def compute_threads(found: StepMeasurements) -> Iterator[str]:
    """Rule: cores are idle while the CPU computes."""
    if found.device == "cpu" and found.threads < found.cores and not is_short_of_data(found):
        yield f"computing uses {found.threads} of {found.cores} cores: set OMP_NUM_THREADS={found.cores}, or unset it"


def idle_workers(found: StepMeasurements) -> Iterator[str]:
    """Rule: workers without work take memory, and cores that the CPU needs for computing."""
    if found.workers < 2 or is_short_of_data(found) or not found.decoding:
        return
    busy, enough = found.decoding / (found.seconds * found.workers), wanted_workers(found)
    if busy < IDLE and 2 * enough < found.workers:
        yield f"workers: {enough} would do (now {found.workers}, which are busy {busy:.0%} of the time)"


def is_short_of_data(found: StepMeasurements) -> bool:
    """Returns whether steps wait for data, or will wait when the packs that are ready now are used up."""
    return found.waiting / found.seconds >= NOTABLE_WAIT or falls_behind(found)


def falls_behind(found: StepMeasurements) -> bool:
    """Returns whether the workers need more time for the files of a step than the rest of the step takes."""
    return supply(found) > HEADROOM * found.working


def supply(found: StepMeasurements) -> float:
    """Returns the seconds in which the data of all steps can be ready, if nothing else slows the workers down."""
    return found.decoding / found.workers if found.workers else found.decoding + found.tokenizing


def wanted_workers(found: StepMeasurements) -> int:
    """Returns the number of workers that decode as fast as the rest computes, limited by the cores."""
    needed = math.ceil(HEADROOM * found.decoding / found.working)
    return max(1, min(needed, found.cores - 1))


def workers(found: StepMeasurements) -> str:
    """Returns the number of workers in words."""
    return {0: "in this process", 1: "1 worker"}.get(found.workers, f"{found.workers} workers")


def per_step(found: StepMeasurements, seconds: float) -> str:
    """Returns the time of one step in words, from the seconds of all steps."""
    return f"{seconds / found.steps:.3g} s"


def megabytes(size: float) -> str:
    """Returns a size in bytes as megabytes in words."""
    return f"{size / 1e6:.3g} MB"


def describe(found: StepMeasurements) -> str:
    """Returns measurements and advice as lines of text."""
    parts = {
        "waiting for data": found.waiting,
        "transfer": found.parts["transfer"],
        "forward": found.parts["forward"],
        "backward": found.parts["backward"],
        "optimizer": found.parts["optimizer"],
    }
    parts["other"] = max(0.0, found.seconds - sum(parts.values()))
    beside = {
        "tokenizing, one thread": found.tokenizing,
        f"decoding, {workers(found)}": found.decoding,
    }
    lines = [
        f"stage {found.stage.name}: {found.steps} steps on {found.device}, {per_step(found, found.seconds)} each; "
        f"{found.samples / found.steps:g} samples in {found.packs / found.steps:g} packs, {found.fill:.0%} full",
        f"  {found.tokens / found.seconds:,.0f} tokens/s; {megabytes(found.media_bytes / found.steps)} of media a "
        f"step; {found.memory / 2**30:.1f} of {found.memory_limit / 2**30:.0f} GiB of memory; {found.threads} compute "
        f"threads, {found.workers} workers, {found.cores} cores",
        "",
        f"  {'s per step':>36}  share",
    ]
    lines += [f"  {name:<26}{s / found.steps:>10.4f} {s / found.seconds:>6.1%}" for name, s in parts.items()]
    lines += [f"  {name:<26}{s / found.steps:>10.4f}   beside" for name, s in beside.items()]
    slowest = sorted(found.files.items(), key=lambda item: -item[1])[:SLOW_FILES_NAMED]
    lines += [f"  {'slowest file':<26}{seconds:>10.4f}   {path}" for path, seconds in slowest]
    what, advice = diagnose(found)
    lines += ["", f"bottleneck: {what}"]
    lines += [f"{number}. {text}" for number, text in enumerate(advice, 1)] or ["nothing to change"]
    return "\n".join(map(one_line, lines))
