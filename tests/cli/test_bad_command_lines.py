"""What the command line refuses: each with its message and exit status, before anything is written or imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.cli.app import main

LINES = [
    # groups and options
    ("recipe=nope", "recipe=nope: no such option; allowed: auto, balanced, distill, distill_int8, distill_narrow, ela"),
    ("recipe=distil_int8", "did you mean distill_int8?"),
    ("recipe=null", "recipe=null: an option of recipe is needed; allowed: auto, balanced, distill"),
    ("model=null", "model=null: an option of model is needed; allowed: minilm"),
    ("model=3", "model=3: an option of model is needed"),
    ("distill=null", "distill=null: an option of distill is needed; allowed: default"),
    ("data=nope", "data=nope: no such option; allowed: bbc_news, files, hub, tiny, tweets"),
    ("task=regression", "task=regression: no such option; allowed: text_classification, token_classification"),
    ("quantize=nope", "quantize=nope: no such option; allowed: aware, aware2, dynamic"),
    ("debug=small", "debug=small: no such option; allowed: tiny"),
    ("+debug=tiny", "leave the + out"),
    ("+experiment=nope", "experiment=nope: no such option"),
    ("experiment=nope", "write +experiment=nope"),
    ("hydra/launcher=nope", "hydra/launcher=nope: no such option; allowed: basic"),
    ("~model", "model=null: an option is needed; allowed: minilm"),
    ("~distill", "distill=null: but steps names distill"),
    # keys
    ("distil.temperature=3", "distil.temperature: unknown key; did you mean distill.temperature?"),
    ("temperature=3", "temperature: unknown key; did you mean distill.temperature?"),
    ("distill.student.layer=3", "did you mean distill.student.layers?"),
    ("finetune={epochz:3}", "finetune.epochz: unknown key; did you mean finetune.epochs?"),
    ("data.train=x.csv", "data.train: unknown key with the chosen option of data; those that have it build on: files"),
    ("budget.max_drop=1", "budget.max_drop: unknown key; did you mean budget.max_metric_drop?"),
    ("+distill.foo=1", "distill.foo: unknown key; allowed: epochs"),
    ("++distill.student.foo=1", "distill.student.foo: unknown key; allowed: layers"),
    ("+foo=1", "foo: unknown key"),
    ("+foo.bar=1", "foo: unknown key"),
    ("+seed=1", "+seed: exists already; leave the + out"),
    ("~quantize.head", "~quantize.head: a key cannot be removed"),
    ("~seed", "seed: cannot be removed"),
    ("~budget", "budget: cannot be removed"),
    ("~distill.nope", "~distill.nope: no such key"),
    ("hydra.run.dirr=x", "hydra.run.dirr: unknown key"),
    # values
    ("distill.temperature=hot", "distill.temperature=hot: Value 'hot' of type 'str' could not be converted"),
    ("distill.temperature=0", "distill.temperature=0.0: must be above 0"),
    ("distill.average=1", "distill.average=1.0: must be below 1"),
    ("distill.temperature=nan", "must be a finite number"),
    ("distill.temperature=${nope}", "distill: Interpolation key 'nope' not found"),
    ("distill.student.layers=2.5", "expected: int"),
    ("distill.student.layers=0", "distill.student.layers=0: must be at least 1"),
    ("distill.student=null", "distill.student=null: field 'distill.student' is not Optional"),
    ("distill.student.initialise_from=[0,-1]", "must be at least 0"),
    ("finetune.schedule=cosin", "did you mean cosine?; allowed: linear, cosine, constant"),
    ("finetune.epochs=0", "finetune.epochs=0: must be at least 1"),
    ("quantize.embeddings=maybe", "expected: bool"),
    ("task.metric=f1", "task.metric=f1: not allowed; allowed: accuracy, f1_macro"),
    ("data.limit=3", "data.limit=3: must be at least 8"),
    ("data=files", "data.train: a value is needed; set data.train=VALUE"),
    ("data=hub", "data.path: a value is needed"),
    ("model=pretrained", "model.path: a value is needed"),
    ("model.path=null", "model.path=null"),
    ("seed=-1", "seed=-1: must be at least 0"),
    ("seed=1.5", "expected: int"),
    ("threads=0", "threads=0: must be at least 1"),
    ("device=gpu", "device=gpu: allowed are auto, cpu, cuda and cuda:N"),
    ("device=cuda:x", "device=cuda:x: allowed are"),
    ("dry_run=perhaps", "expected: bool"),
    ("budget=5", "set them one by one, as budget.KEY=VALUE"),
    ("budget.min_speedup=-1", "budget.min_speedup=-1.0: must be above 0"),
    ("store.max_bytes=0", "store.max_bytes=0: must be at least 1"),
    ("benchmark.shapes=[32]", "'32' is no shape; write BATCHxTOKENS"),
    ("benchmark.shapes=[0x32]", "'0x32' is no shape"),
    ("benchmark.shapes=[]", "at least one shape"),
    ("benchmark.shapes=[1x8,1x8]", "stands there twice"),
    ("benchmark.min_rounds=1000", "must be at most benchmark.max_rounds=240"),
    # steps
    (
        "steps=[]",
        "steps=[]: at least one step is needed; there are finetune, prune, vocabulary, distill, elastic, cut, "
        "export, simplify, quantize",
    ),
    ("steps=finetune", "steps=finetune"),
    ("steps=[finetune,finetune]", "finetune stands there twice; give the second a name of its own"),
    ("steps=[finetune,distil]", "'distil' is no step; did you mean distill?; allowed: finetune"),
    (
        "steps=[finetune,model]",
        "'model' is no step; allowed: finetune, prune, vocabulary, distill, elastic, cut, export, simplify, quantize",
    ),
    ("recipe=int8 distill.temperature=3", "distill.temperature=3: distill is not among the steps"),
    ("recipe=int8 distill=default", "distill is not among the steps (finetune, export, simplify, quantize)"),
    ("recipe=distill export.opset=19", "export.opset=19: export is not among the steps"),
    ("+distill@second=default", "second is not among the steps"),
    ("force=[distil]", "force=distil: not one of the steps; did you mean distill?"),
    ("recipe=int8 until=distill", "until=distill: not one of the steps; allowed: finetune, export, simplify, quantize"),
    # the line itself
    ("recipe", "'recipe' is no override; write key=value"),
    ("=3", "names no key"),
    ("distill.temperature=[1", "is no override"),
    ("distill.temperature=1,2", "a sweep needs -m"),
    ("seed=range(3)", "a sweep; add -m"),
    ("--frob", "unrecognized arguments: --frob"),
    ("--config-dir=/nowhere/at/all", "no such directory"),
    ("--config-name x", "--config-name is not supported"),
    # sweeps that cannot start
    ("-m seed=1,x", "job 1 of the sweep (seed=x): "),
    ("-m recipe=int8,nope", "recipe=nope: no such option"),
    ("seed=1,2 -m distill.student.layers=0", "must be at least 1"),
]


@pytest.mark.parametrize(("line", "message"), LINES, ids=[line for line, _ in LINES])
def test_refused(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


RECIPE = "# @package _global_\n"
FILES = [
    ("recipe/int8.yaml", RECIPE + "steps: [finetune]\n", "int8", "is the name of one that is shipped"),
    ("recipes/int8.yaml", RECIPE + "steps: [finetune]\n", "int8", "is the name of one that is shipped"),
    ("model/minilm.yaml", "defaults: [schema]\n", "int8", "model=minilm is the name of one that is shipped"),
    ("recipe/mine.yaml", RECIPE + "steps: [finetune\n", "mine", "no valid YAML"),
    ("recipe/mine.yaml", b"\xff\xfe\x00", "mine", "a config file is not UTF-8"),
    ("recipe/mine.yaml", RECIPE + "stepz: [finetune]\n", "mine", "stepz: unknown key; did you mean steps?"),
    ("recipe/mine.yaml", RECIPE + "seed: 1\n", "mine", "steps: a value is needed"),
    ("recipe/mine.yaml", RECIPE + "steps: [finetune]\nfinetune: {epochs: many}\n", "mine", "finetune.epochs"),
    ("recipe/mine.yaml", RECIPE + "steps: [finetune]\nfinetune: {epocs: 2}\n", "mine", "finetune.epocs"),
    ("recipe/mine.yaml", RECIPE + "defaults: [override /prune: x]\nsteps: [finetune]\n", "mine", "prune"),
    ("recipe/mine.yaml", RECIPE + "defaults: [override /distill: slow]\nsteps: [distill]\n", "mine", "distill=slow"),
    ("recipe/mine.yaml", "steps: [finetune]\n", "mine", "recipe: its file does not set keys at the top"),
    ("recipe/mine.yaml", "- a\n- list\n", "mine", "begin it with `# @package _global_`"),
    (
        "recipe/mine.yaml",
        RECIPE + "steps: [a]\na: {epochs: 1}\n",
        "mine",
        "a: unknown key, or a config that builds on no",
    ),
]


@pytest.mark.parametrize(("name", "content", "recipe", "message"), FILES, ids=[f"{f[0]}-{f[3]}" for f in FILES])
def test_a_faulty_folder_of_configs_is_refused(
    name: str, content: str | bytes, recipe: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.parent.mkdir()
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    assert main(["--config-dir", str(tmp_path), f"recipe={recipe}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_faulty_recipe_of_a_user_breaks_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("{")
    assert main(["--config-dir", str(tmp_path), "recipe=int8", "--cfg", "job"]) == 0
    assert "learning_rate" in capsys.readouterr().out
