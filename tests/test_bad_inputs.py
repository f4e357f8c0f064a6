"""Bad inputs, as a person gives them: each is answered by one line that names the thing and says what would be
right, exit code 2, and nothing half-written; what was there before is untouched.

Most go through the command line in this process, some again through processes of their own. All start from one
folder: see `tests.kitchen`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.kitchen import (
    AGAIN,
    DONE,
    HALF,
    NEW,
    RUN,
    TUNED,
    Spoil,
    alter,
    answer,
    cut,
    judge,
    launch,
    nothing,
    put,
    remove,
    snapshot,
    swap,
    tuned,
)

STREAMS = """[arms.architecture]
streams = [{ name = "text", holds = "both", layers = [
  { repeat = 4, reads = [{ keys = "text", visibility = "prefix & same_document" }] },
] }]"""
PRESET = 'architecture = { preset = "prefix-nano", depths = [4] }'


def streams(old: str, new: str) -> Spoil:
    """Other words in an arm that is written out."""
    assert old in STREAMS
    return swap(PRESET, STREAMS.replace(old, new, 1))


def tuned_file(content: str | None) -> Spoil:
    def spoil() -> None:
        tuned()()
        if content is None:
            Path("tuned.json").unlink()
        else:
            put("tuned.json", content)()

    return spoil


def without_vowels() -> None:
    put("v.txt", "".join(f"{i * 7919 % 100003} + {i} = ? \n" for i in range(4000)))()


def pairs(count: int, output: str = "an answer", input: str = "question {} of many: {}") -> Spoil:
    words = random.Random(3)
    lines = (
        {"input": input.format(i, words.getrandbits(90)), "output": f"{output} {i}"} for i in range(count)
    )
    return put("p.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


@dataclass(frozen=True)
class Case:
    """What is wrong, the command, fragments of the line that it has to give, and how the kitchen is spoiled."""

    name: str
    words: str
    says: tuple[str, ...]
    spoil: Spoil = nothing


def case(name: str, words: str, *says: str, spoil: Spoil = nothing) -> Case:
    return Case(name, words, says, spoil)


def file(name: str, old: str, new: str, *says: str) -> Case:
    """A study file in which `old` became `new`."""
    return Case(name, "study short.toml --text text --out out", ("short.toml: ", *says), swap(old, new))


def network(name: str, old: str, new: str, *says: str) -> Case:
    """A study file with an arm written out, in which `old` became `new`."""
    words = "study short.toml --text text --out out"
    return Case(name, words, ("short.toml: ", "arm 'prefix'", *says), streams(old, new))


def setting(assignment: str, *says: str) -> Case:
    return Case(f"--set {assignment}", f"study short.toml --text text --out out --set {assignment}", says)


def rates(name: str, old: str, new: str, *says: str) -> Case:
    words = "study short-rates.toml --text text --out out"
    return Case(name, words, ("short-rates.toml", *says), swap(old, new, "short-rates.toml"))


def text(name: str, path: str, content: str | bytes, *says: str, more: str = "") -> Case:
    return Case(name, f"study short.toml --text {path} --out out {more}", says, put(path, content))


def a_pair(name: str, line: str, *says: str) -> Case:
    return Case(name, "study short.toml --pairs p.jsonl --out out", says, put("p.jsonl", line))


DELETE = "delete done/data and start"

KEYS = [
    file("misspelt at the top", "margin =", "margn =", "unknown key 'margn'", "did you mean 'margin'?"),
    file("no such objective", 'label = "one stack"', 'label = "one stack"\nobjective = "spans"', "objective",
         "no objective is called 'spans'", "arms"),
    file("an objective's setting", 'label = "one stack"',
         'label = "one stack"\nobjective = { kind = "masked", rat = 0.2 }', "objective", "'rat'"),
    file("holes in a comparison", 'label = "one stack"', 'label = "one stack"\nobjective = "masked"',
         "arm 'prefix'", "can't learn by the objective 'masked'", "supervise = 'holes'"),
    file("holes that are scored as an output", 'label = "one stack"\nsupervise = "output"',
         'label = "one stack"\nobjective = "masked"\nsupervise = "holes"', "arm 'prefix' fills holes",
         "can't be scored in 'continuation'"),
    file("a senseless objective", 'label = "two stacks"', 'label = "two stacks"\nobjective = "causal"',
         "arm 'two-full'", "can't learn by the objective 'causal'", "its input is empty"),
    file("misspelt table", "[recipe]", "[recipee]", "unknown key 'recipee'", "'recipe'"),
    file("misspelt in data", "window_bytes", "window_byte", "'data.window_byte'", "'window_bytes'"),
    file("misspelt size", "heads = 2", "haeds = 2", "'architecture.haeds'", "'heads'"),
    file("misspelt norm", "d_ff = 48", "d_ff = 48\nnorms = { outputs = true }",
         "'architecture.norms.outputs'", "did you mean 'output'?"),
    file("misspelt in recipe", "learning_rate", "learning_rat", "recipe: unknown key 'learning_rat'",
         "did you mean 'learning_rate'?"),
    file("misspelt rung", "[rungs.rehearsal]", "[rungs.rehersal]", "'rungs.rehersal'", "'rehearsal'"),
    file("misspelt in a rung", "curve_points", "curve_point", "'rungs.rehearsal.curve_point'"),
    file("misspelt in evaluation", "test_windows", "test_window", "'evaluation.test_window'"),
    file("misspelt in an arm", 'supervise = "output"', 'supervize = "output"', "'arms.prefix.supervize'",
         "did you mean 'supervise'?"),
    file("misspelt in an arm's network", "depths = [4]", "depth = [4]", "'arms.prefix.architecture.depth'",
         "did you mean 'depths'?"),
    file("misspelt in a contrast", "declares =", "declare =", "'contrasts.sharing.declare'"),
    file("unknown dimension declared", 'flops = "follows"', 'flop = "follows"', "'flop' is no dimension",
         "did you mean 'flops'?"),
    file("unknown dimension of a contrast", '"visibility"]', '"visiblity"]', "'visiblity' is no dimension"),
    file("unknown kind of study", '"compare"', '"comparison"', "'comparison'",
         "'compare', 'rates', 'ladder' or 'dialogue'"),
    network("misspelt in a stream", "holds", "hold", "'streams.text.hold'", "did you mean 'holds'?"),
    network("misspelt in a layer", "repeat", "repeats", "'streams.text.layers[0].repeats'", "'repeat'"),
    network("misspelt in a read", "visibility", "visiblity", "layers[0].reads[0].visiblity'", "'visibility'"),
]  # fmt: skip

VALUES = [
    file("negative margin", "margin = 0.01", "margin = -0.01", "margin = -0.01", "greater than 0"),
    file("endless margin", "margin = 0.01", "margin = inf", "margin = inf", "a finite number"),
    file("a number in quotes", "margin = 0.01", 'margin = "0.01"', 'margin = "0.01"', "a number"),
    file("no seeds", "seeds = [1, 2]", "seeds = []", "seeds = []", "at least 1 entry"),
    file("a seed twice", "seeds = [1, 2]", "seeds = [1, 1]", "seeds: '1' is there twice"),
    file("a negative seed", "seeds = [1, 2]", "seeds = [1, -2]", "seeds[1] = -2", "greater than or equal to 0"),
    file("a seed that is no list", "seeds = [1, 2]", "seeds = 2", "seeds = 2", "a list in brackets"),
    file("true for a count", "row = 160", "row = true", "data.row = true", "a whole number"),
    file("part of a token", "row = 160", "row = 160.5", "data.row = 160.5", "a whole number"),
    file("tiny windows", "window_bytes = 64", "window_bytes = 4", "data.window_bytes = 4", "16"),
    file("most of the text held out", "test = 0.15", "test = 0.9", "data.test = 0.9", "less than 0.5"),
    file("unknown tokenizer", '"bytes"', '"byte"', 'tokenizer = "byte"', "'bpe' or 'bytes'"),
    file("unknown region", "row = 160", 'row = 160\nregions = ["restauration"]', "'restoration' or 'holes'",
         "did you mean 'restoration'?"),
    file("a region twice", "row = 160", 'row = 160\nregions = ["restoration", "restoration"]',
         "data.regions: 'restoration' is there twice"),
    file("odd heads under RoPE", "d_head = 8", "d_head = 7", "arm 'prefix'", "d_head is 7", "must be even"),
    file("no heads", "heads = 2", "heads = 0", "architecture.heads = 0", "greater than 0"),
    file("a row of a library", "row = 160", "row = 1000000000", "data.row = 1000000000", "65536"),
    file("a network beyond the machine", "d_model = 16", "d_model = 100000000", "arm 'prefix' has 110,",
         "parameters: to train them takes", "GiB, and this machine has"),
    file("learning rate 0", "learning_rate = 1e-2", "learning_rate = 0", "recipe: learning_rate = 0",
         "greater than 0"),
    file("learning rate in quotes", "learning_rate = 1e-2", 'learning_rate = "1e-2"', "a number"),
    file("unknown precision", '"fp32"', '"fp16"', 'recipe: precision = "fp16"', "'bf16' or 'fp32'"),
    file("micro-batches that don't divide", "rows_per_step = 2", "rows_per_step = 2\nmicro_batches = 3",
         "micro_batches = 3 does not divide rows_per_step = 2"),
    file("a recipe without its batch", "rows_per_step = 2\n", "", "the key 'rows_per_step' is missing"),
    file("a seed in the recipe", "rows_per_step = 2", "rows_per_step = 2\nseed = 3", "recipe.seed",
         "'seeds = [1, 2, 3]' at the top"),
    file("steps in the recipe", "rows_per_step = 2", "rows_per_step = 2\nsteps = 3", "recipe.steps",
         "rungs.full.steps"),
    file("warm-up longer than the run", "steps = 8", "steps = 8\nwarmup_steps = 9",
         "rungs.rehearsal: warmup_steps = 9 is more than steps = 8"),
    file("a rung without a length", "steps = 60\n", "", "rungs.full: give either 'steps' or 'passes'"),
    file("a rung with two lengths", "steps = 60", "steps = 60\npasses = 1.0", "either 'steps' or 'passes'"),
    file("endless passes", "steps = 60", "passes = inf", "rungs.full.passes = inf", "a finite number"),
    file("a name that is a path", 'name = "short"', 'name = "../short"', 'name = "../short"',
         "lower-case letters, digits and hyphens"),
    file("an arm twice", 'key = "two-full"', 'key = "prefix"', "arms: 'prefix' is there twice"),
    file("matched to nobody", 'match = "prefix"', 'match = "prefx"', "matched to 'prefx'", "'prefix'?"),
    file("a contrast with an unknown arm", 'to = "two-full"', 'to = "two-ful"', "names an arm 'two-ful'",
         "did you mean 'two-full'?"),
    file("a contrast with itself", 'to = "two-full"', 'to = "prefix"', "compares 'prefix' with itself"),
    file("a contrast for an unknown claim", 'factor = "sharing"', 'factor = "sharing"\nclaim = "C7"',
         "contrast 'sharing' names a claim 'C7'"),
    file("a claim on an unknown contrast", "[[contrasts]]",
         '[[claims]]\nkey = "C1"\nsentence = "x"\nrule = "does-not-beat"\ncontrasts = ["sharin"]\n[[contrasts]]',
         "claim 'C1' rests on a contrast 'sharin'", "'sharing'?"),
    file("a claim by an unknown rule", "[[contrasts]]",
         '[[claims]]\nkey = "C1"\nsentence = "x"\nrule = "beat"\ncontrasts = ["sharing"]\n[[contrasts]]',
         'claims.C1.rule = "beat"', "'does-not-beat'", "did you mean 'beats'?"),
    file("loss where no token is", 'supervise = "output"\nmatch', 'supervise = "all"\nmatch',
         "two-full: supervise = 'all' needs a last stream that holds the input too", "'output' is right"),
    file("answers that are seen", 'supervise = "output"', 'supervise = "all"', "prefix: under its visibility",
         "'output' is right"),
    case("no learning rate at all", NEW, "study 'short' has no learning rate for arm 'prefix'", "recipe.learning_rate",
         spoil=swap("learning_rate = 1e-2\n", "")),
    file("two learning rates", "margin =", 'rates = "r.json"\nmargin =', "both given"),
]  # fmt: skip

NETWORKS = [
    file("unknown preset", "prefix-nano", "prefx-nano", "arm 'prefix'", "called 'prefx-nano'", "prefix-nano"),
    file("a depth too many", "depths = [4]", "depths = [4, 2]", "arm 'prefix'", "one for each stream, text"),
    file("depth 0", "depths = [4]", "depths = [0]", "arms.prefix.architecture.depths[0] = 0"),
    file("depths beside streams", PRESET, "architecture = { streams = [], depths = [4] }", "'depths' goes with"),
    file("no network", PRESET, "architecture = {}", "arms.prefix.architecture: give either 'preset' or"),
    file("a network in a word", PRESET, 'architecture = "prefix-nano"', "it should be a table"),
    file("an arm that can't be matched", "depths = [4]", "depths = [1]", "'two-full' can't be brought within",
         "the nearest is"),
    network("misspelt rule", "prefix &", "prefx &", "'prefx' is not a rule", "did you mean 'prefix'?"),
    network("a rule cut off", "prefix & same_document", "prefix &", "can't be read", "joined by & and |"),
    network("a window of nothing", "prefix &", "prefix & window(0) &", "window takes a positive whole number"),
    network("heads under one rule", "prefix &", "by_head(prefix) &", "by_head takes two rules or more"),
    network("more rules than heads", "prefix &", "by_head(prefix, causal, full) &", "parts 2 heads among 3"),
    network("documents that see each other", "prefix & same_document", "prefix", "'prefix'",
            "add '& same_document'"),
    network("a read of no stream", 'keys = "text"', 'keys = "txt"', "reads 'txt'", "itself or an earlier one"),
    network("merged with nothing", "visibility", "merged = true, visibility", "the first read of a layer"),
    network("half a stack", '"both"', '"input"', "must hold the output or both"),
    network("a stream that holds nothing known", '"both"', '"all"', 'holds = "all"', "'both'"),
    case("answers that see themselves", NEW, "short.toml: prefix: under its visibility", "such as 'causal'",
         spoil=streams("prefix &", "full &")),
    network("0 layers", "repeat = 4", "repeat = 0", "repeat = 0", "greater than 0"),
    network("no reads", '[{ keys = "text", visibility = "prefix & same_document" }]', "[]", "reads = []",
            "at least 1 entry"),
]  # fmt: skip

FILES = [
    case("no study file", "study short.tml --text text --out out", "short.tml", "no such file"),
    case("a folder for a study file", "study text --text text --out out", "text: it is a folder, not a file"),
    case("an empty study file", NEW, "short.toml is empty", "a TOML file", spoil=put("short.toml", "")),
    case("a study file that is not UTF-8", NEW, "not UTF-8: byte 0xff in line 2",
         spoil=put("short.toml", b'kind = "compare"\nname = "\xff"')),
    case("a study file that is not TOML", NEW, "not valid TOML", "line 3",
         spoil=swap('"short"', '"short')),
    case("a search of nothing", "study short-rates.toml --out out", "study file shrt.toml: no such file",
         spoil=swap('"short.toml"', '"shrt.toml"', "short-rates.toml")),
    rates("a search of a search", 'study = "short.toml"', 'study = "short-rates.toml"', "name the comparison"),
    rates("a short grid", "[1e-3, ", "[", "at least 5 entries"),
    rates("a grid in disorder", "[1e-3, ", "[0.5, ", "positive learning rates in ascending order"),
    rates("a search misspelt", "grid", "gird", "unknown key 'gird'", "did you mean 'grid'?"),
    rates("a search's negative seed", "seed = 7", "seed = -7", "seed = -7", "greater than or equal to 0"),
    rates("a search that writes elsewhere", '"short-rates.json"', '"../x.json"', "without a folder"),
    rates("a search shorter than the warm-up", "steps = 40", "steps = 1", "warmup_steps = 2 is more than steps"),
    case("no learning rates' file", NEW, "tuned.json: no such file", spoil=tuned_file(None)),
    case("learning rates that are no JSON", NEW, "tuned.json is not valid JSON", spoil=tuned_file("{")),
    case("learning rates that are a list", NEW, "tuned.json: it should be a table", spoil=tuned_file("[]")),
    case("learning rates without arms", NEW, "tuned.json: the key 'arms' is missing",
         spoil=tuned_file('{"steps": 40}')),
    case("learning rates that lack an arm", NEW, "none for arm 'two-full'", "only for prefix", "search again",
         spoil=tuned(**{"two-full": None})),
    case("a learning rate that is a word", NEW, 'arms.prefix.optimum = "fast"', "a number",
         spoil=tuned(prefix={**TUNED["prefix"], "optimum": "fast"})),
    case("a learning rate below 0", NEW, "arms.prefix.optimum = -1", "greater than 0",
         spoil=tuned(prefix={**TUNED["prefix"], "optimum": -1})),
]  # fmt: skip

WORDS = [
    setting("margin", "--set margin: write key=value"),
    setting("margin=", "--set margin=: the value is missing"),
    setting("margn=1", "short.toml: unknown key 'margn'", "did you mean 'margin'?"),
    setting("margin=small", 'margin = "small"', "a number"),
    setting("rungs.full.step=3", "unknown key 'rungs.full.step'", "'steps'?"),
    setting("margin.x=3", "'margin' is not a table"),
    setting("arms.prefx.label=a", "there is no 'prefx'", "did you mean 'prefix'?"),
    setting("arms.prefix=3", "a whole entry of a list"),
    setting("data.regions=restoration", 'data.regions = "restoration"', "a list in brackets"),
    setting("recipe.betas=[0.9]", "recipe: betas = [0.9]", "too few entries"),
    setting("data.tokenizer=bpe", "too small for a vocabulary of 2048", "at most"),
    setting("data.tokenizer=bpe data.vocabulary=100", "vocabulary 100 is too small", "263"),
    setting("data.row=8", "that can be cut no smaller", "set data.row and data.side higher"),
    case("passes shorter than the warm-up", NEW, "0.01 passes over this text are 2 steps",
         "the warm-up of 9", "rungs.full.passes=", "rungs.full.warmup_steps=",
         spoil=swap("steps = 60", "passes = 0.01\nwarmup_steps = 9")),
    case("0 workers", f"{NEW} --workers 0", "'--workers'", "'0' is not a whole number from 1 up"),
    case("half a worker", f"{NEW} --workers 1.5", "'1.5' is not a whole number"),
    case("text and pairs", f"{NEW} --pairs p.jsonl", "--text and --pairs can't be given together"),
    case("a field of pairs", "study short.toml --pairs p.jsonl --field q --out out", "--field", "--pairs",
         spoil=pairs(9)),
    case("a field of nothing", "study short.toml --field body --out out", "--field", "--text"),
    case("an option misspelt", f"{NEW} --dryrun", "no such option: --dryrun", "--dry-run"),
    case("a command misspelt", "stdy short.toml", "no such command 'stdy'"),
    case("budget of nothing known", "budget decllm-8c", "'decllm-8c'", "decllm-8b"),
    case("budget in no dtype", "budget decllm-nano --dtype fp8", "dtype 'fp8' is unknown", "bf16"),
    case("budget of no tokens", "budget decllm-nano --input 0 --output 0", "make no sequence"),
    case("budget of a library", "budget decllm-nano --input 99999999999", "too many", "at most 16,777,216"),
    case("a drawing of nothing known", "draw redlm-nano --out x.svg", "'redlm-nano'", "redllm-nano"),
    case("a drawing that is no SVG", "draw redllm-nano --out x.png", "x.png", "ends in .svg"),
    case("a drawing over a folder", "draw redllm-nano --out a.svg", "a.svg", "it is a folder",
         spoil=lambda: Path("a.svg").mkdir()),
    case("diff with no run", f"diff {DONE} text", "text is not the folder of a run", "run.json"),
    case("diff with nothing", f"diff {DONE} nowhere", "nowhere is not a folder"),
    case("diff with a damaged run", f"diff {DONE} {HALF}", f"{HALF}/run.json", "not valid JSON",
         spoil=cut(f"{HALF}/run.json", 40)),
    case("report on no study", "report text", "text holds no plan.json", "give the folder of a study"),
    case("report on nothing", "report nowhere", "nowhere holds no plan.json"),
    case("report on a damaged plan", "report done", "done/plan.json is damaged", "it has no study",
         spoil=put("done/plan.json", "{}")),
    case("report on a damaged result", "report done", "results.jsonl: line 2 is not JSON", "writes it anew",
         spoil=cut("done/results.jsonl", 9)),
    case("report on a result that is none", "report done", "line 1 is damaged, it has no arm",
         spoil=put("done/results.jsonl", "{}\n")),
]  # fmt: skip

TEXTS = [
    case("no text", "study short.toml --text nowhere --out out", "nowhere: no such file", ".txt, .md, .jsonl"),
    text("text of an unknown kind", "a.pdf", "%PDF", "a.pdf is of a kind that is not read", ".txt"),
    text("an empty text", "a.txt", "", "a.txt is empty: text is needed"),
    text("a blank text", "a.txt", " \n\n", "a.txt holds no text"),
    text("a text too short to split", "a.txt", "a short text. " * 90, "too short to split", "1260 bytes",
         "12288 bytes"),
    text("a text that is Latin-1", "a.txt", "Ünïcode".encode("latin-1") * 99, "not UTF-8", "byte 0xdc at offset 0",
         "save it as UTF-8"),
    text("a text that is UTF-16", "a.txt", ("text " * 999).encode("utf-16"), "looks like UTF-16"),
    case("a folder without text", "study short.toml --text empty --out out", "empty holds nothing that can be read",
         ".txt, .md, .jsonl", spoil=put("empty/notes.doc", "x")),
    case("a file name that is no text", "study short.toml --text text --out out", "is not UTF-8: rename it",
         spoil=lambda: Path(os.fsdecode(b"text/caf\xe9.txt")).write_text("x" * 2000)),
    text("JSONL without the field", "a.jsonl", '{"text": "a"}\n{"txt": "b"}\n', "a.jsonl:2 has no field 'text'",
         "its fields are 'txt'"),
    text("JSONL without a named field", "a.jsonl", '{"text": "a"}\n', "a.jsonl:1 has no field 'body'",
         more="--field body"),
    text("JSONL malformed", "a.jsonl", '{"text": "a"}\n{"text": \n', "a.jsonl:2 is not JSON"),
    text("JSONL of lists", "a.jsonl", '["a"]\n', "a.jsonl:1 is not a JSON object", '{"text": "..."}'),
    text("JSONL of numbers", "a.jsonl", '{"text": 3}\n', "the field 'text' is 3", "has to be a string"),
    text("JSONL with half a character", "a.jsonl", '{"text": "\\ud800"}\n', "half of a pair"),
    text("an empty JSONL", "a.jsonl", "", "a.jsonl is empty"),
    case("text without vowels", "study short.toml --text v.txt --out out", "restoration", "vowels",
         "leave restoration out of the study's regions", spoil=without_vowels),
    case("no pairs", "study short.toml --pairs nowhere.jsonl --out out", "the pairs nowhere.jsonl: no such file"),
    a_pair("empty pairs", "", "p.jsonl is empty", "one JSON object with input and output"),
    a_pair("a pair without its output", '{"input": "a"}\n', "p.jsonl:1 has no field 'output'", "'input'"),
    a_pair("a pair with an empty output", '{"input": "a", "output": ""}\n', "p.jsonl:1: the output is empty"),
    a_pair("a pair without a word", '{"input": "a", "output": null}\n', "'output' is null", "a string"),
    a_pair("one pair again and again", '{"input": "a", "output": "b"}\n' * 50, "too few to split",
           "50 with 1 different input"),
    case("pairs of an unknown kind", "study short.toml --pairs p.csv --out out", "p.csv", "a .jsonl file",
         spoil=put("p.csv", "a,b\n")),
    case("rows too small for the pairs", "study short.toml --pairs p.jsonl --out out", "do not fit a row of 160",
         "the longest of them p.jsonl:", "--set data.row=", spoil=pairs(60, output="a long answer " * 20)),
]  # fmt: skip

DAMAGE = [
    case("a folder below a file", "study short.toml --text text --out text/00.txt/out",
         "cannot make the folder text/00.txt/out", "a file stands where a folder is needed"),
    case("a file for a folder", "study short.toml --text text --out text/00.txt",
         "cannot make the folder text/00.txt", "a file stands where"),
    case("a name too long", f"study short.toml --text text --out {'x' * 300}", "the name is too long"),
    case("results with another margin", f"{AGAIN} --set margin=0.02", "margin was another", "--out done-2"),
    case("results with another recipe", f"{AGAIN} --set recipe.clip=0.5", "another study",
         "recipe.clip: 1.0 -> 0.5", "--out done-2"),
    case("results on another text", "study one.toml --text more --out done", "results on other data",
         "corpus_sha256", spoil=lambda: (shutil.copytree("text", "more"), Path("more/00.txt").unlink())),
    case("results with another tokenizer", f"{AGAIN} --set data.window_bytes=60", "window_bytes: 64 there, 60"),
    case("another study's results", "study short.toml --text text --out done", "another study", "--out done-2"),
    case("a shard cut short", AGAIN, "done/data/train.tokens has", DELETE, spoil=cut("done/data/train.tokens")),
    case("a shard altered", AGAIN, "done/data/test.index has been altered", DELETE,
         spoil=alter("done/data/test.index")),
    case("a shard missing", AGAIN, "done/data/tune.tokens is missing", DELETE,
         spoil=remove("done/data/tune.tokens")),
    case("a shard's description emptied", AGAIN, "done/data/tune.json", "empty", spoil=put("done/data/tune.json", "")),
    case("the tokenizer altered", AGAIN, "done/data/tokenizer.json", "altered", DELETE,
         spoil=swap("bytes", "bites", "done/data/tokenizer.json")),
    case("data.json cut short", AGAIN, "done/data/data.json is not valid JSON", DELETE,
         spoil=cut("done/data/data.json", 30)),
    case("data.json without its keys", AGAIN, "done/data/data.json is damaged", DELETE,
         spoil=put("done/data/data.json", "{}")),
    case("a finished run's run.json cut short", AGAIN, f"{DONE}/run.json is not valid JSON", f"delete {DONE}",
         spoil=cut(f"{DONE}/run.json", 30)),
    case("a result emptied", AGAIN, f"{DONE}/result.json is empty", "the run is done again",
         spoil=put(f"{DONE}/result.json", "")),
    case("a result that is none", AGAIN, f"{DONE}/result.json is damaged", spoil=put(f"{DONE}/result.json", "[]")),
    case("another run's result", AGAIN, f"{DONE}/result.json is not that of its run",
         spoil=lambda: shutil.copy("done/runs/rehearsal-prefix-seed1/result.json", f"{DONE}/result.json")),
    case("the plan of results emptied", AGAIN, "done/plan.json is empty", "--out done-2",
         spoil=put("done/plan.json", "")),
    case("no run there", "run text", "text holds no run.json", "give the folder of a run"),
    case("run.json emptied", RUN, f"{HALF}/run.json is empty", spoil=put(f"{HALF}/run.json", "")),
    case("run.json is a list", RUN, f"{HALF}/run.json is damaged", spoil=put(f"{HALF}/run.json", "[]")),
    case("run.json altered", RUN, f"{HALF}/run.json is not what its study wrote", "start its study again",
         spoil=swap('"clip": 1.0', '"clip": 9.0', f"{HALF}/run.json")),
    case("a run without its data", RUN, "halfway/data/data.json", "no such file", spoil=remove("halfway/data")),
    case("a run on damaged data", RUN, "halfway/data/train.tokens has been altered",
         spoil=alter("halfway/data/train.tokens")),
    case("a run with another tokenizer", RUN, "halfway/data/tokenizer.json", "altered",
         spoil=swap("bytes", "bites", "halfway/data/tokenizer.json")),
    case("a run on other data", RUN, "halfway/data is not the data that", "its corpus_sha256 differs",
         spoil=swap('\n "corpus_sha256": "', '\n "corpus_sha256": "0', "halfway/data/data.json")),
    case("another run's checkpoints", RUN, f"{HALF}/checkpoints/step-00000006 is of another run",
         "recipe.seed: 2 there, 1 here", "give the run another folder",
         spoil=lambda: (shutil.rmtree(f"{HALF}/checkpoints"),
                        shutil.copytree("halfway/runs/full-prefix-seed2/checkpoints", f"{HALF}/checkpoints"))),
]  # fmt: skip

CASES = [*KEYS, *VALUES, *NETWORKS, *FILES, *WORDS, *TEXTS, *DAMAGE]

IN_A_PROCESS = (
    "misspelt at the top",
    "misspelt rule",
    "a study file that is not UTF-8",
    "learning rates that lack an arm",
    "a text too short to split",
    "JSONL without the field",
    "a folder below a file",
    "another study's results",
    "a shard altered",
    "run.json altered",
    "another run's checkpoints",
    "report on a damaged result",
    "a file name that is no text",
)
"""Done again as a person does it: `python -m headtohead` in a process of its own."""


# ---------------------------------------------------------------------------------------------------- the tests


def ids(some: Case) -> str:
    return some.name.replace(" ", "-")


def test_there_are_enough() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 50
    assert set(IN_A_PROCESS) <= set(names)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_bad_input(case: Case, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case.spoil()
    before = snapshot(place)
    judge(before, place, answer(case.words, capfd), *case.says)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in IN_A_PROCESS], ids=ids)
def test_bad_input_in_a_process(case: Case, place: Path) -> None:
    case.spoil()
    before = snapshot(place)
    judge(before, place, launch(case.words), *case.says)
