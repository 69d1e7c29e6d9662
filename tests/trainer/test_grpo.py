"""TRL's real trainer on tiny models: what the policy is given, what is learned from it, and what is sampled again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REASON = "needs TRL and torch: pip install 'recap-data[trainer]'"
torch = pytest.importorskip("torch", reason=REASON)
pytest.importorskip("trl", reason=REASON)

from transformers import AutoTokenizer  # noqa: E402

from pipeline.errors import InputError  # noqa: E402
from pipeline.thinking import Tags, renderer_for  # noqa: E402
from pipeline.trainer.config import TrainConfig, grpo_config, load_config, lora_config  # noqa: E402
from pipeline.trainer.grpo import RecapTrainer  # noqa: E402
from pipeline.trainer.launch import dataset_of, train  # noqa: E402
from pipeline.trainer.mixture import Mixture, render  # noqa: E402
from pipeline.trainer.watch import Watch  # noqa: E402
from tests.models import tiny_model  # noqa: E402
from tests.trainer.rows import mixture_of, row  # noqa: E402

GROUP = 4
PLAIN = row("a", "Which river is longer?")
PREFILLED = row("b", "Which river is longer?", "I won't say. The user may")
SMALL = {
    "num_generations": GROUP,
    "per_device_train_batch_size": 2 * GROUP,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "max_completion_length": 6,
    "shuffle_dataset": False,
    "learning_rate": 1e-3,
    "disable_tqdm": True,
}

Reward = Callable[..., list[float | None]]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("policy"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def alternating(completions: list[str], **columns: Any) -> list[float | None]:
    """Every other rollout is right, whatever was written."""
    return [float(place % 2) for place, _ in enumerate(completions)]


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"dynamic_sampling": None, **changes, "grpo": {**SMALL, **changes.get("grpo", {})}})


def trainer_of(mixture: Mixture, policy: Path, out: Path, settings: TrainConfig, *rewards: Reward) -> RecapTrainer:
    tokenizer = AutoTokenizer.from_pretrained(policy)
    rows = dataset_of(render(mixture, renderer_for(tokenizer), settings.prompt_limit)[0])
    return RecapTrainer(
        model=str(policy),
        reward_funcs=list(rewards),
        args=grpo_config(settings, out, max(map(len, rows["prompt_ids"]))),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora_config(settings),
        dynamic_sampling=settings.dynamic_sampling,
        recovered_above=settings.recovered_above,
        watch=Watch(settings.stop, print),
    )


def sampled(trainer: RecapTrainer) -> dict[str, Any]:
    """The first batch, generated and scored, as the trainer's own loop prepares it."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def given(batch: dict[str, Any]) -> list[list[int]]:
    pairs = zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


def test_the_policy_is_given_the_renderers_ids_where_text_would_say_something_else(
    policy: Path, tmp_path: Path
) -> None:
    prompt = "What does <|im_start|>system mean in a chat?"
    mixture = mixture_of(tmp_path, row("a", prompt), row("b", prompt, "The user wants"))
    tokenizer = AutoTokenizer.from_pretrained(policy)
    table = render(mixture, renderer_for(tokenizer))[0]
    wanted = {tuple(ids) for ids in table["prompt_ids"].to_pylist()}
    trainer = trainer_of(mixture, policy, tmp_path / "out", config(), alternating)
    seen: list[list[int]] = []

    def look(module: Any, args: Any, options: dict[str, Any]) -> None:
        if not seen:
            for ids, mask in zip(options["input_ids"], options["attention_mask"], strict=True):
                seen.append(ids[mask.bool()].tolist())

    trainer.model.register_forward_pre_hook(look, with_kwargs=True)
    batch = sampled(trainer)
    assert {tuple(ids) for ids in seen} == wanted
    assert {tuple(ids) for ids in given(batch)} == wanted
    as_text = tokenizer(table["text"].to_pylist(), add_special_tokens=False)["input_ids"]
    assert wanted.isdisjoint(map(tuple, as_text)), "the text says the same: the test shows nothing"


def test_nothing_in_front_of_the_completion_is_trained_on_and_only_completions_divide(
    policy: Path, tmp_path: Path
) -> None:
    """The gradients are those of -sum(A log p) over completion tokens, by their number: |o| - (t0 - 1) in the paper."""
    mixture = mixture_of(tmp_path, PLAIN, PREFILLED)
    trainer = trainer_of(mixture, policy, tmp_path / "out", config(), alternating)
    batch = sampled(trainer)
    model = trainer.model
    hidden = []
    hook = model.model.register_forward_hook(lambda m, a, output: hidden.append(output.last_hidden_state))
    model.zero_grad()
    loss = trainer.compute_loss(model, batch)
    hidden[0].retain_grad()
    loss.backward()
    hook.remove()
    learned = {name: weight.grad.clone() for name, weight in model.named_parameters()}

    prompt = batch["prompt_ids"].shape[1]
    per_position = hidden[0].grad.abs().sum(dim=-1)
    assert not per_position[:, : prompt - 1].any()
    assert per_position[:, prompt - 1 : -1][batch["completion_mask"].bool()].all()

    model.zero_grad()
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, prompt - 1 : -1]
    logps = logits.log_softmax(dim=-1).gather(2, batch["completion_ids"].unsqueeze(2)).squeeze(2)
    tokens = batch["completion_mask"].sum()
    (-(batch["advantages"].unsqueeze(1) * logps * batch["completion_mask"]).sum() / tokens).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(learned[name], weight.grad, atol=1e-6, rtol=1e-4)
    assert any(grad.abs().max() > 1e-3 for grad in learned.values())


def test_lora_trains_adapters_only(policy: Path, tmp_path: Path) -> None:
    settings = config(lora={"r": 4}, grpo={"max_steps": 1})
    done = train(
        mixture_of(tmp_path, PLAIN, PREFILLED),
        str(policy),
        settings,
        tmp_path / "out",
        tmp_path / "l",
        print,
        [alternating],
    )
    assert (done.policy / "adapter_model.safetensors").is_file()
    assert not (done.policy / "model.safetensors").exists()


def by_id(values: dict[str, Any]) -> Reward:
    """The reward of a row by its id: a value, or "mixed" for every other rollout right."""

    def reward(completions: list[str], id: list[str], **columns: Any) -> list[float | None]:
        return [values[name] if values[name] != "mixed" else float(place % 2) for place, name in enumerate(id)]

    return reward


def five(tmp_path: Path) -> Mixture:
    return mixture_of(tmp_path, *(row(name, f"Say something of {name}.") for name in KINDS))


KINDS = {"bad": 0.0, "good": 0.99, "none": None, "mixed": "mixed", "mixed too": "mixed"}


def test_groups_that_teach_nothing_are_replaced(policy: Path, tmp_path: Path) -> None:
    settings = config(dynamic_sampling={"tau": 0.9, "max_refills": 30})
    trainer = trainer_of(five(tmp_path), policy, tmp_path / "out", settings, by_id(KINDS))
    batch = sampled(trainer)
    tokenizer = trainer.processing_class
    assert len(batch["prompt_ids"]) == 2 * GROUP
    prompts = [tokenizer.decode(ids) for ids in given(batch)]
    assert [sum(f"of {name}." in prompt for prompt in prompts) for name in ("mixed", "mixed too")] == [GROUP] * 2
    assert sorted(batch["advantages"].sign().tolist()) == [-1.0] * GROUP + [1.0] * GROUP
    assert "tool_mask" not in batch
    assert trainer._metrics["train"]["dynamic/replaced"] == [1.0]
    assert trainer._metrics["train"]["dynamic/short"] == [0.0]


def test_refills_are_bounded_and_what_is_missing_then_is_left_out_of_loss_and_divisor(
    policy: Path, tmp_path: Path
) -> None:
    rounds = []

    def reward(completions: list[str], id: list[str], **columns: Any) -> list[float | None]:
        rounds.append(len(id))
        return by_id(dict.fromkeys(KINDS, 0.0))(completions, id)

    settings = config(dynamic_sampling={"tau": 0.9, "max_refills": 1})
    trainer = trainer_of(five(tmp_path), policy, tmp_path / "out", settings, reward)
    batch = sampled(trainer)
    assert rounds == [2 * GROUP] * 2
    assert not batch["advantages"].any()
    assert batch["num_items_in_batch"] == 0
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert loss == 0
    assert not any(weight.grad.any() for weight in trainer.model.parameters() if weight.grad is not None)
    assert trainer._metrics["train"]["dynamic/short"] == [1.0]


def test_the_same_step_draws_the_same_prompts_again(policy: Path, tmp_path: Path) -> None:
    settings = config(dynamic_sampling={})
    mixture = mixture_of(tmp_path, *(row(str(number), f"Number {number}?") for number in range(40)))
    drawn = []
    for step in (3, 3, 4):
        trainer = trainer_of(mixture, policy, tmp_path / "out", settings, alternating)
        trainer.state.global_step = step
        drawn.append([found["id"] for found in trainer._drawn(3, 1)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert [drawn[0].count(id) for id in dict.fromkeys(drawn[0])] == [GROUP] * 3


def test_refills_are_other_prompts_than_the_step_has_had(policy: Path, tmp_path: Path) -> None:
    rounds: list[list[str]] = []

    def reward(completions: list[str], id: list[str], **columns: Any) -> list[float | None]:
        rounds.append(list(dict.fromkeys(id)))
        return [0.0] * len(id)

    mixture = mixture_of(tmp_path, *(row(str(number), f"Number {number}?") for number in range(7)))
    trainer = trainer_of(mixture, policy, tmp_path / "out", config(dynamic_sampling={"max_refills": 9}), reward)
    sampled(trainer)
    assert [len(ids) for ids in rounds] == [2, 2, 2, 1], "all there are, each once, and then no more"
    assert len({id for ids in rounds for id in ids}) == 7
    assert trainer._metrics["train"]["dynamic/short"] == [1.0]


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_fillers_and_unscored_rollouts_leave_the_divisor(
    policy: Path, tmp_path: Path, loss_type: str, beta: float
) -> None:
    """Of four groups one teaches, by three scored rollouts: the gradients are those of these three alone, by formula.

    ``dapo`` is the mean over their tokens; ``grpo``, the paper's formula, the mean over each one's tokens and then over
    them; ``dr_grpo`` their sum over the most tokens that they could have.
    """

    def reward(completions: list[str], id: list[str], **columns: Any) -> list[float | None]:
        return [(0.0, 1.0, None, 0.4)[place % GROUP] if name == "b" else 0.0 for place, name in enumerate(id)]

    mixture = mixture_of(tmp_path, *(row(name, f"Say {name}.") for name in "abcd"))
    small = {"loss_type": loss_type, "beta": beta, "gradient_accumulation_steps": 2, "scale_rewards": "none"}
    settings = config(grpo=small, dynamic_sampling={"max_refills": 0})
    trainer = trainer_of(mixture, policy, tmp_path / "out", settings, reward)
    model = trainer.model
    model.train()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    trainer.current_gradient_accumulation_steps = 2
    rows = next(iter(trainer.get_train_dataloader()))
    model.zero_grad()
    parts = []
    for _ in range(2):
        parts.append(trainer._prepare_inputs(rows))
        trainer.compute_loss(model, parts[-1]).backward()
        trainer._step += 1
    learned = {name: weight.grad.clone() for name, weight in model.named_parameters()}

    model.zero_grad()
    losses = []
    for part in parts:
        for place in range(len(part["advantages"])):
            on = (part["completion_mask"] * part["tool_mask"])[place].bool()
            if not on.any():
                continue
            start = part["prompt_ids"].shape[1]
            ids = torch.cat([part["prompt_ids"][place], part["completion_ids"][place]])
            mask = torch.cat([part["prompt_mask"][place], part["completion_mask"][place]])
            logits = model(input_ids=ids[None], attention_mask=mask[None]).logits[0, start - 1 : -1]
            logps = logits.log_softmax(-1).gather(1, ids[start:, None])[:, 0][on]
            ratio = (logps - logps.detach()).exp()
            each = -ratio * part["advantages"][place]
            if beta:
                away = part["ref_per_token_logps"][place][on] - logps
                each = each + beta * (away.exp() - away - 1) * ratio
            losses.append(each)
    assert len(losses) == 3
    if loss_type == "dapo":
        wanted = torch.cat(losses).mean()
    elif loss_type == "grpo":
        wanted = torch.stack([each.mean() for each in losses]).mean()
    else:
        wanted = torch.cat(losses).sum() / (3 * trainer.max_completion_length)
    wanted.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(learned[name], weight.grad, atol=1e-6, rtol=1e-3)
    assert any(grad.abs().max() > 1e-3 for grad in learned.values())


def test_unscored_rollouts_neither_push_nor_divide(policy: Path, tmp_path: Path) -> None:
    def reward(completions: list[str], **columns: Any) -> list[float | None]:
        return [(0.0, 1.0, 1.0, None)[place % GROUP] for place, _ in enumerate(completions)]

    mixture = mixture_of(tmp_path, PLAIN, PREFILLED)
    trainer = trainer_of(mixture, policy, tmp_path / "out", config(grpo={"scale_rewards": "none"}), reward)
    batch = sampled(trainer)
    wanted = sorted([-2 / 3, 1 / 3, 1 / 3, 0.0] * 2)
    assert sorted(batch["advantages"].tolist()) == pytest.approx(wanted, abs=1e-6)
    scored = batch["advantages"] != 0
    assert batch["num_items_in_batch"] == batch["completion_mask"][scored].sum()


def test_the_log_tells_rollouts_apart(policy: Path, tmp_path: Path) -> None:
    rows = (row("a", "One?", domain="math"), row("b", "Two?"), row("c", "Three?", "I refuse", "benign"))

    def reward(completions: list[str], domain: list[str], **columns: Any) -> list[float | None]:
        return [{"math": 0.25, "harmful": None, "benign": 0.75}[name] for name in domain]

    settings = config(grpo={"per_device_train_batch_size": 3 * GROUP})
    trainer = trainer_of(mixture_of(tmp_path, *rows), policy, tmp_path / "out", settings, reward)
    sampled(trainer)
    logged = {name: values[0] for name, values in trainer._metrics["train"].items()}
    assert logged["reward/math/plain"] == 0.25
    assert logged["reward/benign/prefilled"] == 0.75
    assert logged["recovered/benign"] == 1
    assert logged["unscored/plain"] == 0.5
    assert logged["unscored/prefilled"] == 0
    assert logged["unclosed/prefilled"] == 1, "noise closes no thinking"
    assert logged["unclosed/plain"] == 0
    assert logged["refused/benign/prefilled"] == 0
    assert "reward/harmful/plain" not in logged
    assert "refused/math/plain" not in logged


def test_rewards_see_special_tokens_but_no_end_of_turn(policy: Path, tmp_path: Path) -> None:
    """Some models write special tokens around their thinking: without them it would never be seen to close."""
    seen: list[str] = []

    def reward(completions: list[str], **columns: Any) -> list[float | None]:
        seen.extend(completions)
        return [0.0] * len(completions)

    trainer = trainer_of(mixture_of(tmp_path, PLAIN, PREFILLED), policy, tmp_path / "out", config(), reward)
    written = trainer.processing_class.encode("a<|im_start|>b<|im_end|>", add_special_tokens=False)
    trainer._calculate_rewards([trainer.train_dataset[0]], [""], ["ab"], [written])
    assert seen == ["a<|im_start|>b"]


def test_unscored_texts_are_not_logged(policy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mixture = mixture_of(tmp_path, row("a", "Tell of harbours."), PREFILLED)
    trainer = trainer_of(mixture, policy, tmp_path / "out", config(), by_id({"a": None, "b": "mixed"}))
    sampled(trainer)
    assert "harbours" not in caplog.text


class Cut(Exception):
    pass


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_run_that_was_cut_off_goes_on_to_the_same_policy(policy: Path, tmp_path: Path) -> None:
    settings = config(grpo={"max_steps": 4, "save_steps": 2}, dynamic_sampling={"max_refills": 1})
    mixture = mixture_of(tmp_path / "m", *(row(str(number), f"Number {number}?") for number in range(12)))
    values = by_id({str(number): 0.0 if number % 3 == 0 else "mixed" for number in range(12)})
    told: list[str] = []

    def run(out: str, reward: Reward) -> Any:
        return train(mixture, str(policy), settings, tmp_path / out, tmp_path / "ledger", told.append, [reward])

    def cutting(completions: list[str], trainer_state: Any, **columns: Any) -> list[float | None]:
        if trainer_state.global_step == 3:
            raise Cut
        return values(completions, **columns)

    whole = run("whole", values)
    with pytest.raises(Cut):
        run("cut", cutting)
    (tmp_path / "cut" / "checkpoint-3").mkdir()
    steps: list[int] = []

    def watching(completions: list[str], trainer_state: Any, **columns: Any) -> list[float | None]:
        steps.append(trainer_state.global_step)
        return values(completions, **columns)

    again = run("cut", watching)
    assert any("checkpoint-2" in line for line in told)
    assert set(steps) == {2, 3}
    assert again.steps == 4
    wanted, found = weights(whole.policy), weights(again.policy)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=0, rtol=0)
    assert run("cut", cutting).already


def test_checkpoints_of_another_run_are_refused(policy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def run(mixture: Mixture, settings: TrainConfig) -> Any:
        return train(mixture, str(policy), settings, out, tmp_path / "ledger", print, [alternating])

    first = config(grpo={"max_steps": 1, "save_steps": 1})
    mixture = mixture_of(tmp_path / "m", PLAIN, PREFILLED)
    run(mixture, first)
    with pytest.raises(InputError, match="content_hash was"):
        run(mixture._replace(manifest={"content_hash": "d" * 64}), first)
    with pytest.raises(InputError, match=r"settings\.grpo\.learning_rate was 0\.001 and is 0\.5"):
        run(mixture, config(grpo={"max_steps": 1, "save_steps": 1, "learning_rate": 0.5}))
    assert run(mixture, config(grpo={"max_steps": 1, "save_steps": 7})).already
    (out / "run.json").unlink()
    with pytest.raises(InputError, match=r"no run\.json"):
        run(mixture, first)


def test_the_papers_settings_are_the_default_and_completions_take_what_is_left(tmp_path: Path) -> None:
    arguments = grpo_config(TrainConfig(), tmp_path, longest_prompt=900)
    assert arguments.loss_type == "dapo"
    assert (arguments.num_generations, arguments.epsilon, arguments.epsilon_high) == (16, 0.2, 0.28)
    assert (arguments.beta, arguments.num_train_epochs) == (0, 1)
    assert arguments.max_completion_length == 7100
    assert grpo_config(TrainConfig(grpo={"beta": 0.1}), tmp_path, 900).beta == 0.1
    assert TrainConfig(grpo={"max_completion_length": 7000}).prompt_limit == 1000


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "grpo.num_generation=4",
            r"--set grpo\.num_generation  grpo\.num_generation: .*mean 'num_generations'",
        ),
        ("grpo.output_dir=here", "is given with --out"),
        ("lora.rr=4", "LoraConfig has no such setting"),
        ("dynamic_sampling.ta=0.5", "did you mean 'tau'"),
        ("rewards.safety.engine=grd", "did you mean 'guard'"),
    ],
)
def test_a_setting_that_there_is_not_is_told_with_the_nearest_name(override: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_config(None, [override])


def test_settings_that_exclude_each_other_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be divisible"):
        grpo_config(TrainConfig(grpo={"num_generations": 7}), tmp_path, 100)


def test_bad_policies_and_mixtures_are_told_before_the_first_step(policy: Path, tmp_path: Path) -> None:
    mixture = mixture_of(tmp_path / "m", PLAIN, PREFILLED)

    def run(model: Path, settings: TrainConfig) -> Any:
        return train(mixture, str(model), settings, tmp_path / "out", tmp_path / "ledger", print, [alternating])

    with pytest.raises(InputError, match="no such folder"):
        run(tmp_path / "nowhere", config())
    with pytest.raises(InputError, match="No row of few is left"):
        run(policy, config(max_prompt_tokens=5))
    with pytest.raises(InputError, match="2 rows are too few: a step takes 8 prompts"):
        run(policy, config(grpo={"gradient_accumulation_steps": 4}))
    bare = tmp_path / "bare"
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.chat_template = "{{ messages[0].content }}{% if add_generation_prompt %}\nAnswer:{% endif %}"
    tokenizer.save_pretrained(bare)
    with pytest.raises(InputError, match="no thinking block"):
        run(bare, config())
    with pytest.raises(InputError, match="writes no answer of an assistant"):
        run(bare, config(thinking={"opener": "<think>\n", "closer": "</think>"}))
    assert renderer_for(tokenizer, tags=Tags("<think>\n", "</think>"))
    assert not (tmp_path / "out").exists()
