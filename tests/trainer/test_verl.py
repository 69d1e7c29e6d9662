"""An export in the hands of verl 0.9.1's own code: its dataset, settings, agent loop worker, batch, loss, rewards."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("verl", reason="needs verl, which is installed in an environment of its own: .ci/verl.sh makes it")

import numpy as np
import ray
import torch
import transfer_queue as tq
import verl.trainer.config
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, InstantiationException
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.experimental.reward_loop.reward_loop import RewardLoopManager, RewardLoopWorker
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import agg_loss, compute_grpo_outcome_advantage
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import left_right_2_no_padding

from pipeline.errors import InputError, RecapError
from pipeline.thinking import renderer_for
from pipeline.trainer.config import DynamicSampling, TrainConfig
from pipeline.trainer.mixture import open_mixture
from pipeline.trainer.verl import export
from pipeline.trainer.watch import Stop
from tests import models
from tests.servers.endpoint import endpoint
from tests.trainer.test_rewards import answers, judged
from tests.trainer.test_verl_export import small_mixture
from tests.trainer.tiny_server import ScriptedServer, TinyServer

PROMPT, RESPONSE = 900, 24
REFUSES = "\n</think>\n\nI'm sorry, but I can't help with that."
COMPLIES = "\n</think>\n\nHere is what you asked for, step by step."
UNCLEAR = "\n</think>\n\n?!"
SMALL = (
    f"actor_rollout_ref.rollout.response_length={RESPONSE}",
    f"actor_rollout_ref.rollout.max_model_len={PROMPT + RESPONSE}",
    "actor_rollout_ref.rollout.n=2",
    "actor_rollout_ref.rollout.agent.num_workers=1",
    "data.filter_overlong_prompts_workers=1",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of random weights, with a token a byte."""
    return models.tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("verl")
    mixture = open_mixture(str(small_mixture(folder / "small")))
    done = export(mixture, str(model), folder / "export", max_prompt_tokens=PROMPT)
    assert (done.rows, done.prefilled) == (50, 20)
    sys.path.insert(0, str(done.out))
    yield done.out
    sys.path.remove(str(done.out))


def launch(exported: Path, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run launch.sh as far as verl's own `main`, which is given an unknown setting."""
    launching = {**os.environ, "PYTHON": sys.executable, **values}
    script = [exported / "launch.sh", "data.no_such_setting=1"]
    return subprocess.run(script, env=launching, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def overrides(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What launch.sh starts verl with."""
    folder = tmp_path_factory.mktemp("launch")
    (folder / "python").write_text(f'#!/usr/bin/env bash\nprintf "%s\\0" "$@" > {folder}/arguments\n')
    (folder / "python").chmod(0o755)
    launching = {**os.environ, "PYTHON": str(folder / "python"), "RUN": str(folder / "run")}
    subprocess.run([exported / "launch.sh", "trainer.n_gpus_per_node=4"], check=True, env=launching)
    flag, module, *found = (folder / "arguments").read_text().split("\0")[:-1]
    assert (flag, module, found[-1]) == ("-m", "verl.trainer.main_ppo", "trainer.n_gpus_per_node=4")
    return found


def composed(*overrides: str) -> Any:
    folder = str(Path(verl.trainer.config.__file__).parent)
    with initialize_config_dir(folder, version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


@pytest.fixture(scope="module")
def config(overrides: list[str]) -> Any:
    """verl's settings as launch.sh makes them, with lengths that fit the tiny policy."""
    return composed(*overrides, *SMALL)


@pytest.fixture(scope="module")
def rows(config: Any, model: Path) -> RLHFDataset:
    return RLHFDataset(config.data.train_files, AutoTokenizer.from_pretrained(model), config.data)


class Here:
    """verl's reward worker without Ray: asked as an actor is, with a copy of what it is sent."""

    def __init__(self, config: Any) -> None:
        self.worker = RewardLoopWorker(config)
        self.compute_score = self

    async def remote(self, data: DataProto) -> Any:
        return await self.worker.compute_score(pickle.loads(pickle.dumps(data)))


def rolled(config: Any, server: Any, rows: list[dict[str, Any]], *, rewarded: bool = False) -> DataProto:
    """Roll rows out with verl's own worker, which loads the agent loop, and have its batch of them."""

    async def roll() -> DataProto:
        worker = AgentLoopWorker(config, server, reward_loop_worker_handles=[Here(config)] if rewarded else None)
        return await worker.generate_sequences(DataProto.from_single_dict(collate_fn(deepcopy(rows))))

    return asyncio.run(roll())


def twins(rows: RLHFDataset) -> tuple[dict[str, Any], dict[str, Any]]:
    """A prefilled row, and the plain row of the same prompt."""
    prefilled = next(row for row in rows if row["extra_info"]["prefill"] is not None)
    plain = deepcopy(prefilled)
    plain["extra_info"] |= {"prefill": None, "prefill_tokens": 0}
    return prefilled, plain


# --- the rows and the settings


@pytest.mark.parametrize("filtered", [True, False])
def test_verls_dataset_reads_every_row(config: Any, model: Path, filtered: bool) -> None:
    data = OmegaConf.merge(config.data, {"filter_overlong_prompts": filtered})
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = RLHFDataset(data.train_files, tokenizer, data)
    assert len(rows) == 50
    batch = collate_fn([rows[place] for place in range(50)])
    assert set(batch["agent_name"]) == {"recap"}
    assert sum(info["prefill"] is not None for info in batch["extra_info"]) == 20
    assert batch["index"].tolist() == list(range(50))
    back = tu.get_tensordict(batch)
    assert len(back) == 50
    assert back[3]["extra_info"]["id"] == rows[3]["extra_info"]["id"]


def test_verl_takes_every_setting_of_the_launch_script(overrides: list[str]) -> None:
    config = composed(*overrides)
    validate_config(config, need_reference_policy(config), need_critic(config))
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.2, 0.28)
    assert (need_reference_policy(config), need_critic(config)) == (False, False)
    assert (rollout.n, rollout.prompt_length, rollout.max_model_len) == (16, PROMPT, 8000)
    assert (config.trainer.total_epochs, config.algorithm.adv_estimator) == (1, "grpo")
    assert config.algorithm.filter_groups.enable
    with pytest.raises(ConfigCompositionException, match="clip_ratio_hihg"):
        composed(*overrides, "actor_rollout_ref.actor.clip_ratio_hihg=0.3")


def test_the_launch_script_checks_policy_and_judges_and_starts_verl(exported: Path, tmp_path: Path) -> None:
    launched = launch(exported, {})
    assert "note: safety and helpfulness come from embedded stand-ins" in launched.stderr
    assert "data.no_such_setting" in launched.stderr
    here = shutil.copytree(exported, tmp_path / "export")
    judge = "safety: {engine: guard, family: granite-guardian, base_url: 'http://127.0.0.1:1/v1', model: guard}"
    (here / "rewards.yaml").write_text(judge)
    launched = launch(here, {})
    assert (launched.returncode, launched.stderr.count("\n")) == (1, 1)
    assert "http://127.0.0.1:1/v1" in launched.stderr


# --- the agent loop and verl's batch of it


def test_a_prefilled_and_a_plain_row_differ_only_in_the_prefix(config: Any, rows: RLHFDataset, model: Path) -> None:
    server = TinyServer(model)
    prefilled, plain = twins(rows)
    rolled(config, server, [prefilled, plain])
    (full, full_parameters), (short, short_parameters) = server.asked
    info = prefilled["extra_info"]
    assert full[: len(short)] == short
    assert len(full) - len(short) == info["prefill_tokens"]
    text = AutoTokenizer.from_pretrained(model).decode(full[len(short) :])
    assert text == f"<think>\n{info['prefill']}"
    assert full_parameters == short_parameters


def test_nothing_before_t0_is_in_the_response(config: Any, rows: RLHFDataset, model: Path) -> None:
    server = TinyServer(model)
    given = [*twins(rows), rows[0], rows[49]]
    batch = rolled(config, server, given).batch
    assert batch["prompts"].shape == (4, PROMPT)
    for place, (prompt_ids, _) in enumerate(server.asked):
        attended = batch["attention_mask"][place]
        padding = PROMPT - len(prompt_ids)
        generated = int(batch["response_mask"][place].sum())
        assert batch["prompts"][place, padding:].tolist() == prompt_ids
        assert attended[:PROMPT].tolist() == [0] * padding + [1] * len(prompt_ids)
        assert batch["response_mask"][place].tolist() == [1] * generated + [0] * (RESPONSE - generated)
        assert attended[PROMPT:].tolist() == batch["response_mask"][place].tolist()
        assert batch["position_ids"][place, padding : padding + 3].tolist() == [0, 1, 2]
        assert generated > 0


def _loss(batch: Any, model: Any, config: Any, labels: torch.Tensor, agg_mode: str) -> tuple[float, list[torch.Tensor]]:
    """verl's loss on a batch in verl's own unpadded form, and the gradient of every weight.

    `labels` are the tokens whose log-probabilities the policy is asked for: the packed sequences, a place further on,
    as verl's engine has them.
    """
    data = left_right_2_no_padding(batch.clone())
    logits = [model(ids[None]).logits[0] for ids in data["input_ids"].unbind()]
    log_probs = torch.cat(logits).float().log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    nested = torch.nested.nested_tensor_from_jagged(log_probs, offsets=data["input_ids"].offsets())
    data["old_log_probs"] = data["rollout_log_probs"]
    scores = torch.zeros_like(data["old_log_probs"])
    scores[:, 0] = torch.tensor([1.0, 0.25, 0.0, 0.5])
    index = np.array(["a", "a", "b", "b"])
    data["advantages"], _ = compute_grpo_outcome_advantage(scores, data["response_mask"], index)
    tu.assign_non_tensor_data(data, "dp_size", 1)
    tu.assign_non_tensor_data(data, "batch_num_tokens", None)
    tu.assign_non_tensor_data(data, "global_batch_size", None)
    actor = omega_conf_to_dataclass(OmegaConf.merge(config.actor_rollout_ref.actor, {"loss_agg_mode": agg_mode}))
    model.zero_grad()
    loss, _ = ppo_loss(actor, {"log_probs": nested}, data)
    loss.backward()
    return loss.item(), [weight.grad.clone() for weight in model.parameters()]


@pytest.mark.parametrize("agg_mode", ["seq-mean-token-mean", "token-mean"])
def test_the_prefix_has_no_part_in_loss_or_gradient(config: Any, rows: RLHFDataset, model: Path, agg_mode: str) -> None:
    server = TinyServer(model)
    batch = rolled(config, server, [*twins(rows), rows[0], rows[49]]).batch
    policy = AutoModelForCausalLM.from_pretrained(model)
    packed = left_right_2_no_padding(batch.clone())["input_ids"]
    labels = torch.roll(packed.values(), -1)
    loss, gradient = _loss(batch, policy, config, labels, agg_mode)
    assert loss != 0
    assert any(part.abs().max() > 0 for part in gradient)

    lengths = batch["attention_mask"].sum(1).tolist()
    before, trained = labels.clone(), labels.clone()
    start = 0
    for length, (given, _) in zip(lengths, server.asked, strict=True):
        before[start : start + len(given) - 1] = 7
        trained[start + len(given) - 1] = 7
        start += length
    assert (before != labels).sum() > 100
    other_loss, other_gradient = _loss(batch, policy, config, before, agg_mode)
    assert other_loss == loss
    assert all(torch.equal(one, other) for one, other in zip(gradient, other_gradient, strict=True))
    assert _loss(batch, policy, config, trained, agg_mode)[0] != loss


def test_the_divisor_is_what_was_generated(config: Any, rows: RLHFDataset, model: Path) -> None:
    server = TinyServer(model)
    batch = rolled(config, server, list(twins(rows))).batch
    lengths = batch["attention_mask"].sum(1).tolist()
    ones = torch.ones_like(batch["response_mask"], dtype=torch.float)
    for place, (given, _) in enumerate(server.asked):
        optimised = lengths[place] - len(given)
        first = torch.zeros_like(ones[place : place + 1])
        first[0, 0] = 1.0
        mask = batch["response_mask"][place : place + 1]
        for mode in ("seq-mean-token-mean", "token-mean"):
            assert float(agg_loss(first, mask, mode)) == pytest.approx(1 / optimised)
            assert float(agg_loss(ones[place : place + 1], mask, mode)) == pytest.approx(1)


def test_prompt_and_answer_share_the_tokens(config: Any, rows: RLHFDataset, model: Path) -> None:
    server = TinyServer(model)
    total = OmegaConf.merge(config, {"actor_rollout_ref": {"rollout": {"max_model_len": 950, "response_length": 950}}})
    rolled(total, server, [rows[place] for place in range(8)])
    assert len({len(prompt) for prompt, _ in server.asked}) > 1
    assert all(len(prompt) + parameters["max_tokens"] == 950 for prompt, parameters in server.asked)


def test_a_prompt_over_the_limit_is_an_error_and_never_cut(config: Any, rows: RLHFDataset, model: Path) -> None:
    prefilled, _ = twins(rows)
    short = OmegaConf.merge(config, {"data": {"max_prompt_length": 20}})
    server = TinyServer(model)
    with pytest.raises(InputError, match=r"over the 20 that data\.max_prompt_length") as told:
        rolled(short, server, [prefilled])
    assert not server.asked
    assert prefilled["extra_info"]["prompt"] not in str(told.value)


def test_a_policy_with_another_template_is_refused(
    exported: Path, config: Any, rows: RLHFDataset, model: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template += "\n"
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    other = OmegaConf.merge(config, {"actor_rollout_ref": {"model": {"path": str(tmp_path)}}})
    with pytest.raises(InstantiationException, match="Export the mixture again"):
        rolled(other, TinyServer(model), [rows[0]])
    launched = launch(exported, {"MODEL": str(tmp_path)})
    assert launched.returncode == 2
    assert launched.stderr.startswith("recap-data: The policy's chat template has the hash")
    assert len(launched.stderr.splitlines()) == 1


# --- the rewards


@pytest.mark.parametrize(
    ("answer", "harmful", "benign", "unclosed"),
    [
        ("\n</think>\n\nI'm sorry, but I can't help with that.<|im_end|>", 1, 0, 0),
        ("\n</think>\n\nHere is what you asked for, step by step.<|im_end|>", 0, 1, 0),
        (" I'm sorry, but I can't help with that.", 0, 0, 1),
        ("\n</think>\n\n<|im_end|>", 0, 0, 0),
    ],
)
def test_verls_reward_worker_gives_our_rewards(
    config: Any, rows: RLHFDataset, model: Path, answer: str, harmful: int, benign: int, unclosed: int
) -> None:
    ids = AutoTokenizer.from_pretrained(model).encode(answer, add_special_tokens=False)
    long = OmegaConf.merge(config, {"actor_rollout_ref": {"rollout": {"response_length": 90, "max_model_len": 2000}}})
    picked = [
        next(row for row in rows if row["data_source"] == domain and row["extra_info"]["prefill"] is not None)
        for domain in ("harmful", "benign")
    ]
    batch = rolled(long, ScriptedServer({}, [ids]), picked, rewarded=True)
    assert batch.batch["rm_scores"].sum(1).tolist() == [harmful, benign]
    assert batch.batch["rm_scores"].nonzero()[:, 1].tolist() == [len(ids) - 1] * (harmful + benign)
    assert batch.non_tensor_batch["unclosed"].tolist() == [unclosed] * 2


def test_math_is_verified(config: Any, rows: RLHFDataset, model: Path) -> None:
    row = next(row for row in rows if row["data_source"] == "math")
    truth = row["reward_model"]["ground_truth"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    long = OmegaConf.merge(config, {"actor_rollout_ref": {"rollout": {"response_length": 90, "max_model_len": 2000}}})
    for value, score in ((truth, 1.0), (f"{truth}1", 0.0)):
        ids = tokenizer.encode(f"<think>\nSo.\n</think>\n\nThe answer is \\boxed{{{value}}}.", add_special_tokens=False)
        batch = rolled(long, ScriptedServer({}, [ids]), [row], rewarded=True)
        assert batch.batch["rm_scores"].sum().item() == score


def test_judges_are_asked(config: Any, rows: RLHFDataset, model: Path, exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported / "export.json", tmp_path)
    row = next(row for row in rows if row["data_source"] == "harmful" and row["extra_info"]["prefill"] is not None)
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in answers("refuse", 6)]
    with endpoint(latency=0.002) as judges:
        (tmp_path / "rewards.yaml").write_text(yaml.safe_dump(judged(judges.base_url).model_dump(mode="json")))
        asked = {"rewards": str(tmp_path / "rewards.yaml"), "ledger": str(tmp_path / "ledger.sqlite")}
        long = OmegaConf.merge(
            config,
            {
                "actor_rollout_ref": {"rollout": {"response_length": 1000, "max_model_len": 2000}},
                "reward": {"custom_reward_function": {"reward_kwargs": asked}},
            },
        )
        batch = rolled(long, ScriptedServer({}, ids), [row] * 6, rewarded=True)
    scores = batch.batch["rm_scores"].sum(1).tolist()
    assert len(set(scores)) == 6
    assert all(0 < score < 1 for score in scores)


def test_marks_that_are_special_tokens_are_seen_by_the_rewards(
    config: Any, rows: RLHFDataset, model: Path, tmp_path: Path
) -> None:
    here = shutil.copytree(model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(here)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<think>", "</think>"]})
    tokenizer.save_pretrained(here)
    ids = tokenizer.encode(REFUSES, add_special_tokens=False)
    assert "</think>" not in tokenizer.decode(ids, skip_special_tokens=True)
    rollout = {"response_length": 90, "max_model_len": 2000}
    special = OmegaConf.merge(config, {"actor_rollout_ref": {"model": {"path": str(here)}, "rollout": rollout}})
    row = next(row for row in rows if row["data_source"] == "harmful" and row["extra_info"]["prefill"] is not None)
    batch = rolled(special, ScriptedServer({}, [ids]), [row], rewarded=True)
    assert batch.batch["rm_scores"].sum().item() == 1
    assert batch.non_tensor_batch["unclosed"].tolist() == [0]


def test_a_rollout_that_cant_be_scored_is_no_number(config: Any, rows: RLHFDataset, model: Path) -> None:
    row = next(row for row in rows if row["data_source"] == "harmful")
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer.encode("<think>\nSo.\n</think>\n\n?!", add_special_tokens=False)
    long = OmegaConf.merge(config, {"actor_rollout_ref": {"rollout": {"response_length": 90, "max_model_len": 2000}}})
    batch = rolled(long, ScriptedServer({}, [ids]), [row], rewarded=True)
    assert batch.batch["rm_scores"].sum().isnan()
    assert batch.non_tensor_batch["why"].tolist() == ["unclear"]


def test_a_judge_that_is_lost_is_told(
    config: Any, rows: RLHFDataset, model: Path, exported: Path, tmp_path: Path
) -> None:
    shutil.copy(exported / "export.json", tmp_path)
    row = next(row for row in rows if row["data_source"] == "harmful" and row["extra_info"]["prefill"] is not None)
    ids = AutoTokenizer.from_pretrained(model).encode(REFUSES, add_special_tokens=False)
    lost = {"engine": "guard", "family": "granite-guardian", "base_url": "http://127.0.0.1:9/v1", "model": "guard"}
    (tmp_path / "rewards.yaml").write_text(yaml.safe_dump({"safety": lost | {"patience": 0.5}}))
    asked = {"rewards": str(tmp_path / "rewards.yaml"), "ledger": str(tmp_path / "ledger.sqlite")}
    long = {"rollout": {"response_length": 90, "max_model_len": 2000}}
    changed = {"actor_rollout_ref": long, "reward": {"custom_reward_function": {"reward_kwargs": asked}}}
    batch = rolled(OmegaConf.merge(config, changed), ScriptedServer({}, [ids]), [row], rewarded=True)
    assert batch.batch["rm_scores"].sum().isnan()
    assert "http://127.0.0.1:9/v1" in batch.non_tensor_batch["lost"][0]


# --- on a Ray cluster of one machine: verl's workers as actors, its queue, and its choice of groups


@pytest.fixture
def cluster(exported: Path) -> Iterator[None]:
    path = os.pathsep.join([str(exported), str(Path(__file__).parents[2])])
    ray.init(
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    yield
    tq.close()
    ray.shutdown()


class Training:
    """As much of verl's synchronous trainer as chooses the groups of a step, on a scripted policy of four rollouts."""

    trainer_mode = "sync"

    def __init__(self, config: Any, model: Path, rows: list[dict[str, Any]], scripts: dict[str, list[str]]) -> None:
        self.config = OmegaConf.merge(
            config,
            {
                "actor_rollout_ref": {"rollout": {"n": 4, "response_length": 90, "max_model_len": 2000}},
                "data": {"train_batch_size": 4},
                "transfer_queue": {"enable": True, "backend": {"SimpleStorage": {"num_data_storage_units": 1}}},
            },
        )
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        renderer = renderer_for(self.tokenizer)

        def ids(texts: list[str]) -> list[list[int]]:
            return [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]

        others = scripts.pop("others", [REFUSES, COMPLIES])
        known = {
            tuple(renderer.render(row["raw_prompt"], row["extra_info"]["prefill"]).ids): ids(texts)
            for row, texts in zip(rows, scripts.values(), strict=False)
        }
        tq.init(self.config.transfer_queue)
        rewards = RewardLoopManager(self.config)
        self.manager = AgentLoopManagerTQ.create(
            config=self.config,
            llm_client=ScriptedServer(known, ids(others)),
            teacher_client=None,
            reward_loop_worker_handles=rewards.reward_loop_worker_handles,
        )
        self.left, self.drawn = cycle(rows), 0
        self.buffer = PPOTrainer._build_replay_buffer(self)
        self.buffer.poll_interval = 0.2

    def _add_prompts_to_generate(self, count: int) -> int:
        rows, step = [next(self.left) for _ in range(count)], 2 if self.drawn else 1
        self.drawn += count
        batch = collate_fn(deepcopy(rows))
        batch["uid"] = np.array([str(uuid4()) for _ in rows], dtype=object)
        queued = tu.get_tensordict(batch)
        tu.assign_non_tensor_data(queued, "global_steps", step)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": step} for _ in rows]
        tq.kv_batch_put(keys=list(batch["uid"]), partition_id="train", tags=tags)
        self.manager.generate_sequences(queued)
        return count


def test_groups_that_teach_nothing_are_dropped_and_unscored_rollouts_count_for_nothing(
    cluster: None, config: Any, rows: RLHFDataset, model: Path
) -> None:
    prefilled = [row for row in rows if row["extra_info"]["prefill"] is not None]
    harmful = sorted(prefilled, key=lambda row: row["data_source"] != "harmful")
    scripts = {
        "bad": [COMPLIES],
        "good": [REFUSES],
        "mixed": [COMPLIES, REFUSES],
        "one unscored": [COMPLIES, REFUSES, UNCLEAR, REFUSES],
        "all unscored": [UNCLEAR],
        "three bad and one unscored": [COMPLIES, COMPLIES, UNCLEAR, COMPLIES],
        "a single one scored": [UNCLEAR, REFUSES, UNCLEAR, UNCLEAR],
    }
    named = {row["extra_info"]["id"]: name for row, name in zip(harmful, scripts, strict=False)}
    training = Training(config, model, harmful, scripts)
    training._add_prompts_to_generate(len(scripts))
    batch, metrics = training.buffer.sample(global_steps=1, partition_id="train", batch_size=4)
    assert metrics["training/filter_groups/evicted_samples"] == 3
    assert metrics["training/rollout_failure/evicted_samples"] == 2
    assert 0 < metrics["training/unscored/safety"] < 0.4
    assert training.drawn > len(scripts)
    found = tq.kv_batch_get(
        keys=batch.keys, partition_id="train", select_fields=["prompts", "response_mask", "rm_scores", "extra_info"]
    )
    by_row: dict[str, list[float]] = {}
    parts = [found[name].unbind() for name in ("prompts", "response_mask", "rm_scores")]
    for prompt, mask, score, info in zip(*parts, found["extra_info"], strict=True):
        row = getattr(info, "data", info)
        by_row.setdefault(named.get(row["id"], row["id"]), []).append(float(score.sum()))
        assert mask.all()
        assert training.tokenizer.decode(prompt).endswith(f"<think>\n{row['prefill']}")
    assert sorted(by_row.pop("mixed")) == [0, 0, 1, 1]
    assert sorted(by_row.pop("one unscored")) == [0, 1, 1]
    assert [sorted(scores) for scores in by_row.values()] == [[0, 0, 1, 1]] * 2
    assert not by_row.keys() & scripts.keys()


def test_a_training_whose_judge_cant_be_read_is_stopped(
    cluster: None, config: Any, rows: RLHFDataset, model: Path
) -> None:
    stop = {"trainer": {"v1": {"sampler": {"sampler_kwargs": {"max_refills": 1, "stop": {"steps": 2}}}}}}
    prefilled = [row for row in rows if row["extra_info"]["prefill"] is not None]
    training = Training(OmegaConf.merge(config, stop), model, prefilled, {"others": [UNCLEAR, UNCLEAR, COMPLIES]})
    training._add_prompts_to_generate(4)
    with pytest.raises(RecapError, match=r"were unscored in 2 steps in a row.*unclear \(\d+ times\)"):
        training.buffer.sample(global_steps=1, partition_id="train", batch_size=4)
    assert training.drawn <= 24


def test_the_bounds_are_those_of_train(config: Any) -> None:
    given = config.trainer.v1.sampler.sampler_kwargs
    assert Stop(**given.stop) == TrainConfig.model_fields["stop"].default
    assert DynamicSampling(tau=given.tau, max_refills=given.max_refills) == DynamicSampling()
    assert config.trainer.v1.sampler.sync_refill_failed_groups
