"""When a training stops because its judges can't be read: the bounds, and TRL's real trainer with a failing guard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError, RecapError
from pipeline.trainer.watch import Seen, Stop, Watch, lesson
from tests.servers.endpoint import endpoint

NAN = math.nan


@pytest.mark.parametrize(
    ("rewards", "tau", "found"),
    [
        ([0, 1, 1, 1], 0.9, "teaches"),
        ([0, NAN, NAN, 1], 0.9, "teaches"),
        ([0.5, 0.5], None, "teaches"),
        ([0, 0, 0, NAN], 0.9, "all_bad"),
        ([1, 0.91, NAN], 0.9, "all_good"),
        ([1, 1], None, "teaches"),
        ([NAN, NAN, NAN, 1], 0.9, "unscored"),
        ([NAN] * 4, 0.9, "unscored"),
    ],
)
def test_unscored_rollouts_count_for_nothing_in_what_a_group_is_worth(
    rewards: list[float], tau: float | None, found: str
) -> None:
    assert lesson(rewards, tau) == found


def step(unscored: int = 0, asked: int = 10, short: int = 0) -> Seen:
    return Seen({"safety": asked, "math": 4}, {"safety": unscored, "math": 0}, 8, short)


def watched(stop: Stop | None, *steps: Seen) -> tuple[Watch, list[str]]:
    told: list[str] = []
    watch = Watch(stop, told.append)
    for number, seen in enumerate(steps, 1):
        watch.hear("safety", [f"HTTP 400: request {number + at} is bad" for at in (16, 99)] + ["no idea"])
        watch.step(number, seen)
    return watch, told


def test_a_reward_that_stays_unscored_is_an_end_and_its_judge_is_quoted() -> None:
    watch, told = watched(Stop(steps=3), step(9), step(1), step(3), step(4), step(8))
    assert not told
    assert "safety is the reward of, 50% were unscored in 3 steps in a row up to step 5" in watch.verdict
    assert watch.verdict.index("HTTP 400: request 17 is bad (6 times)") < watch.verdict.index("no idea (3 times)")
    assert "stop: null" in watch.verdict
    for steps in ([step(9), step(1)] * 3, [step(2)] * 9, [step(9)] * 2):
        assert not watched(Stop(steps=3), *steps)[0].verdict


def test_steps_without_rollouts_to_judge_neither_count_nor_excuse() -> None:
    assert watched(Stop(steps=3), *[step(9), step(asked=0)] * 3)[0].verdict
    assert not watched(Stop(steps=3), *[step(9), step(asked=0)] * 2)[0].verdict


def test_groups_that_stay_missing_are_an_end() -> None:
    watch, _ = watched(Stop(steps=2), step(short=8), step(short=8))
    assert "100% were missing in 2 steps in a row" in watch.verdict
    assert not watched(Stop(steps=2), *[step(short=7)] * 5)[0].verdict


def test_without_a_stop_it_is_told_again_and_again() -> None:
    watch, told = watched(None, *[step(9)] * 11)
    assert not watch.verdict
    assert [line.startswith("WARNING: of the answers") for line in told] == [True] * 2
    watch.end()
    assert len(told) == 2


def test_a_training_in_which_nothing_taught_is_none_however_short() -> None:
    watch, _ = watched(Stop(), step(short=8), step(short=8))
    assert not watch.verdict
    watch.end()
    assert "no group of 2 steps taught anything" in watch.verdict


def test_it_goes_on_after_an_interruption() -> None:
    first, _ = watched(Stop(steps=3), step(9), step(9))
    second = Watch(Stop(steps=3), print)
    second.resume(json.loads(json.dumps(first.state())))
    second.step(3, step(9))
    assert "in 3 steps in a row up to step 3" in second.verdict


# in TRL's trainer

ROWS = 16
SMALL = {
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "max_completion_length": 6,
    "max_steps": 5,
    "save_steps": 50,
    "learning_rate": 1e-4,
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("trl", reason="needs TRL (pip install 'recap-data[trainer]')")
    from tests.models import tiny_model

    return tiny_model(tmp_path_factory.mktemp("policy"))


def trained(policy: Path, folder: Path, tell: Any = print, reward: Any = None, **settings: Any) -> Any:
    from pipeline.trainer.config import TrainConfig
    from pipeline.trainer.launch import train
    from tests.trainer.rows import mixture_of, row

    rows = (row(str(number), f"Name bread number {number}.") for number in range(ROWS))
    mixture = mixture_of(folder / "mixture", *rows)
    asked = {
        "dynamic_sampling": {"tau": 1, "max_refills": 1},
        **settings,
        "grpo": {**SMALL, **settings.get("grpo", {})},
    }
    config = TrainConfig.model_validate(asked)
    rewards = [reward] if reward else None
    return train(mixture, str(policy), config, folder / "out", folder / "ledger.sqlite", tell, rewards)


def guarded(url: str, **more: Any) -> dict[str, Any]:
    served = {"engine": "guard", "family": "granite-guardian", "model": "guard-granite", "base_url": url}
    return {"safety": served | more}


def test_a_guard_that_refuses_all_but_the_check_stops_the_run_and_it_goes_on_once_mended(
    policy: Path, tmp_path: Path
) -> None:
    with endpoint(latency=0.002) as server:

        def tell(line: str) -> None:
            if "by no model" in line:
                server.set(refuses=400, refuses_with='{"error": {"message": "It is too long."}}')

        run: dict[str, Any] = {"rewards": guarded(server.base_url), "stop": {"steps": 2}}
        with pytest.raises(
            RecapError, match=r"safety is the reward of, 100% were unscored in 2 steps in a row"
        ) as told:
            trained(policy, tmp_path, tell, **run)
        assert "no answer: HTTP 400: It is too long" in str(told.value)
        assert "bread" not in str(told.value)
        assert (tmp_path / "out" / "checkpoint-2").is_dir()
        assert not (tmp_path / "out" / "policy").exists()
        with pytest.raises(InputError, match="is refused: HTTP 400"):
            trained(policy, tmp_path, tell, **run)
        server.set(refuses=0)
        lines: list[str] = []
        done = trained(policy, tmp_path, lines.append, **run)
    assert any("checkpoint-2" in line for line in lines)
    assert done.steps == 5
    assert done.policy.is_dir()


@pytest.mark.parametrize("dynamic", [None, {"tau": 1, "max_refills": 0}])
@pytest.mark.parametrize("value", [None, 0.0])
def test_rewards_of_nothing_or_0_are_never_a_trained_policy(
    policy: Path, tmp_path: Path, value: float | None, dynamic: dict[str, Any] | None
) -> None:
    def reward(completions: list[str], **columns: Any) -> list[float | None]:
        return [value] * len(completions)

    short = {"max_steps": 3, "save_steps": 1}
    for _ in range(2):
        with pytest.raises(RecapError, match=r"no group of \d steps taught anything"):
            trained(policy, tmp_path, reward=reward, dynamic_sampling=dynamic, grpo=short)
        assert not (tmp_path / "out" / "policy").exists()
    with pytest.raises(RecapError, match="in a row up to step 5"):
        trained(policy, tmp_path / "longer", reward=reward, dynamic_sampling=dynamic)
    told: list[str] = []
    warned = tmp_path / "warned"
    done = trained(policy, warned, told.append, reward=reward, dynamic_sampling=dynamic, stop=None)
    assert done.steps == 5
    assert sum(line.startswith("WARNING") for line in told) >= 1


def test_where_a_judge_is_and_how_long_it_is_waited_for_is_no_other_training(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(policy.parent)
    with endpoint() as first, endpoint() as second:
        once = {"max_steps": 1, "save_steps": 1}
        run: dict[str, Any] = {"grpo": once, "stop": None, "rewards": guarded(first.base_url)}
        trained(Path(policy.name), tmp_path, **run)
        moved = guarded(second.base_url, tries=3, patience=900.0, deadline=60.0, in_flight=4)
        elsewhere = {"grpo": once | {"dataloader_num_workers": 1}, "stop": {"steps": 9}, "rewards": moved}
        assert trained(Path(f"./{policy.name}"), tmp_path, **elsewhere).already
        assert trained(policy, tmp_path, **elsewhere).already
        with pytest.raises(
            InputError, match=r"settings\.rewards\.safety\.family was .*granite.* and is .*llama-guard-3"
        ):
            trained(policy, tmp_path, **(run | {"rewards": guarded(first.base_url, family="llama-guard-3")}))


def test_another_effective_batch_is_another_training(policy: Path, tmp_path: Path) -> None:
    def reward(completions: list[str], **columns: Any) -> list[float | None]:
        return [float(place % 2) for place, _ in enumerate(completions)]

    once = {"max_steps": 1, "save_steps": 1}
    trained(policy, tmp_path, reward=reward, grpo=once)
    with pytest.raises(InputError, match="effective_batch was 8 and is 16"):
        trained(policy, tmp_path, reward=reward, grpo=once | {"gradient_accumulation_steps": 2})
    same = once | {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    assert trained(policy, tmp_path, reward=reward, grpo=same).already
