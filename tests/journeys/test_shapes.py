"""Every shape of student on the real engine: vLLM computes what was trained.

The students have random weights, so that any two models disagree at once. vLLM reads each folder as
it was saved and writes a few tokens, and what it thought of them is compared with transformers.

Starting vLLM is imports for the most part. So one process opens all folders one after the other,
with engine and worker in it (this file, run as a program); only the layer-wise student, whose
config a plug-in of ours has to bring into each of vLLM's processes, is also opened as it is served.
"""

import asyncio
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROMPT = list(range(300, 340))
TOKENS = 12

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what the engine imports into this process is not ours
]

SHAPES: dict[str, dict[str, Any]] = {
    "depth": {"shape": "depth", "layers": 3},
    "width": {"shape": "width", "hidden": 64, "heads": 2, "kv_heads": 1, "ffn": 64},
    "scratch": {"shape": "scratch", "layers": 2, "hidden": 64, "ffn": 96},
    "layerwise": {"shape": "layerwise", "layers": 4, "kv_range": (1, 4), "ffn_range": (0.5, 2.0)},
    "shared-ffn": {"shape": "shared-ffn", "layers": 3},
    "model": {"shape": "model"},
}


def main(folders: list[str]) -> None:
    """Prints, for each folder, the tokens that vLLM writes and their log-probabilities."""
    from vllm import LLM, SamplingParams, TokensPrompt
    from vllm.distributed import destroy_distributed_environment, destroy_model_parallel

    sampling = SamplingParams(
        max_tokens=TOKENS, temperature=0, ignore_eos=True, logprobs=0, detokenize=False
    )
    for folder in folders:
        gc.freeze()  # vLLM collects garbage at each step of its start, of all that was imported
        llm = LLM(
            folder,
            skip_tokenizer_init=True,
            dtype="float32",  # so that both engines round alike
            enforce_eager=True,
            kv_cache_memory_bytes=2**26,
            max_model_len=256,
            distributed_executor_backend="uni",
        )
        (output,) = llm.generate(TokensPrompt(prompt_token_ids=PROMPT), sampling, use_tqdm=False)
        (written,) = output.outputs
        pairs = zip(written.token_ids, written.logprobs, strict=True)
        told = {
            "tokens": list(written.token_ids),
            "logprobs": [place[token].logprob for token, place in pairs],
        }
        print("RESULT", json.dumps(told), flush=True)
        del llm
        destroy_model_parallel()
        destroy_distributed_environment()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One saved student of each shape, of one tiny teacher with a real tokenizer."""
    import numpy as np
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from senryu.distill.recipe import Recipe, StudentRecipe, TeacherRecipe
    from senryu.distill.samples import Sample
    from senryu.distill.students.build import build_student
    from senryu.distill.students.save import save_student
    from senryu.server.conversation.messages import Conversation, Message
    from senryu.server.engine.model_folder import EMBEDDED, find_model

    root = tmp_path_factory.mktemp("shapes")
    tokenizer = AutoTokenizer.from_pretrained(find_model(EMBEDDED))
    tokenizer.save_pretrained(root / "teacher")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(root / "teacher")
    measured = Sample(
        id="0-0",
        kind="chat",
        source="test",
        held_out=False,
        conversation=Conversation(messages=()),
        answer=Message(role="assistant", content=()),
        token_ids=np.arange(1000, 1100, dtype=np.int32),
        loss_mask=np.ones(100, dtype=bool),
        top_ids=np.zeros((100, 0), dtype=np.int32),
        top_logprobs=np.zeros((100, 0), dtype=np.float32),
        tail=np.ones(100, dtype=np.float32),
    )
    teacher = TeacherRecipe(licence="MIT", allows_training=True, terms="It is ours.")
    for name, told in SHAPES.items():
        more = {"model": str(root / "teacher")} if name == "model" else {}
        recipe = Recipe(teacher=teacher, student=StudentRecipe(**told, **more))
        model, spoken = build_student(
            recipe.student, root / "teacher", calibration=[measured], seed=1
        )
        save_student(model, spoken, root / name, recipe=recipe, teacher_folder=root / "teacher")
    return {name: root / name for name in SHAPES}


@dataclass(frozen=True)
class Started:
    """vLLM, at work on all folders while this process opens the layer-wise one."""

    process: "subprocess.Popen[bytes]"
    said: Path


@pytest.fixture(scope="module")
def started(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    here = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    said = tmp_path_factory.mktemp("said") / "output.txt"  # a pipe that nobody reads would fill up
    with (
        said.open("w") as file,
        subprocess.Popen(
            [sys.executable, __file__, *map(str, folders.values())],
            env={**os.environ, **here, "OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        yield Started(process, said)
        process.kill()


@pytest.fixture(scope="module")
def told(folders: dict[str, Path], started: Started) -> dict[str, dict[str, Any]]:
    """What vLLM wrote with each."""
    status = started.process.wait()
    said = started.said.read_text()
    assert status == 0, said[-3000:]
    results = [
        json.loads(line.removeprefix("RESULT "))
        for line in said.splitlines()
        if line.startswith("RESULT ")
    ]
    return dict(zip(folders, results, strict=True))


def expected_logprobs(folder: Path, tokens: list[int]) -> Any:
    """What transformers thinks of all tokens at the places where `tokens` were written."""
    import torch

    from senryu.distill.students.existing import open_weights

    model = open_weights(folder)
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([PROMPT + tokens])).logits[0]
    return torch.log_softmax(logits[len(PROMPT) - 1 : -1], dim=-1)


@pytest.fixture(scope="module")
def served(folders: dict[str, Path], started: Started) -> Iterator[tuple[asyncio.Runner, Any]]:
    """The layer-wise student as `senryu serve` opens it: vLLM in three processes."""
    from senryu.server.engine import open_engine
    from senryu.server.settings import ServerSettings

    settings = ServerSettings(model=str(folders["layerwise"]), dtype="float32", kv_memory_gib=0.5)
    with asyncio.Runner() as runner:
        engine = runner.run(open_engine(settings))
        yield runner, engine
        runner.run(engine.close())


def test_a_layerwise_student_is_served(
    served: tuple[asyncio.Runner, Any], folders: dict[str, Path]
) -> None:
    """The plug-in reaches all processes; the card knows the student's own name."""
    from senryu.server.conversation.messages import Sampling
    from senryu.server.turn.prompt import Prompt

    runner, engine = served

    async def written() -> list[int]:
        events = engine.generate(
            Prompt(token_ids=PROMPT), Sampling(max_tokens=TOKENS, temperature=0), "one"
        )
        return [token async for event in events for token in event.token_ids]

    tokens = runner.run(written())
    expected = expected_logprobs(folders["layerwise"], tokens)
    for place, token in enumerate(tokens):
        assert float(expected[place, token]) == pytest.approx(
            float(expected[place].max()), abs=1e-3
        )
    assert engine.card.model == "teacher-layerwise"


@pytest.mark.parametrize("name", SHAPES)
def test_vllm_computes_what_was_trained(
    name: str, folders: dict[str, Path], told: dict[str, dict[str, Any]]
) -> None:
    """Each token is the most probable one, and as probable as transformers finds it."""
    tokens, logprobs = told[name]["tokens"], told[name]["logprobs"]
    expected = expected_logprobs(folders[name], tokens)
    for place, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
        assert logprob == pytest.approx(float(expected[place, token]), abs=1e-3)
        assert logprob == pytest.approx(float(expected[place].max()), abs=1e-3)


def test_the_shapes_are_different_models(told: dict[str, dict[str, Any]]) -> None:
    """Else the comparison above would prove little."""
    assert len({str(each["logprobs"]) for each in told.values()}) == len(SHAPES)


if __name__ == "__main__":
    main(sys.argv[1:])
