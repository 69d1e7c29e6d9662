#!/usr/bin/env bash
# Train on this mixture with verl 0.9.1, by the settings of RECAP: ./launch.sh [a.verl.setting=value ...]
# MODEL, GPUS (of a node), NODES, TP (GPUs that share a rollout), RUN (where checkpoints go), LEDGER (the file of the
# judges' answers, never on a network disk) and PYTHON may be set.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exported_for=@MODEL@
model=${MODEL:-$exported_for}
python=${PYTHON:-python3}
run=${RUN:-$here/run}
ledger=${LEDGER:-$run/rewards.sqlite}
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"

"$python" -m pipeline.trainer.verl "$here" "$model"

overrides=(
    # The rows. Those that are too long were left out by the export, which counts the prefill; verl wouldn't. verl wants
    # a validation file; it is never validated on.
    "data.train_files='$here/train.parquet'"
    "data.val_files='$here/train.parquet'"
    data.val_max_samples=1
    trainer.val_before_train=False
    trainer.test_freq=-1
    data.filter_overlong_prompts=False
    data.seed=0
    "actor_rollout_ref.rollout.agent.agent_loop_config_path='$here/agent_loop.yaml'"
    "+ray_kwargs.ray_init.runtime_env.env_vars.PYTHONPATH='$PYTHONPATH'"

    # The paper: DAPO's clipping, no KL, 16 rollouts a prompt, 8,000 tokens in all, one epoch.
    algorithm.adv_estimator=grpo
    actor_rollout_ref.actor.clip_ratio_low=0.2
    actor_rollout_ref.actor.clip_ratio_high=0.28
    actor_rollout_ref.actor.clip_ratio_c=10.0
    actor_rollout_ref.actor.use_kl_loss=False
    algorithm.use_kl_in_reward=False
    actor_rollout_ref.actor.entropy_coeff=0
    actor_rollout_ref.rollout.n=16
    data.max_prompt_length=@PROMPT_TOKENS@
    data.max_response_length=8000
    actor_rollout_ref.rollout.max_model_len=8000
    trainer.total_epochs=1

    # DAPO's mean is over all optimised tokens of a step, as in `recap-data train` (loss_type: dapo). The paper's formula
    # divides each rollout's loss by its own optimised tokens and takes the mean over rollouts: seq-mean-token-mean
    # (loss_type: grpo).
    actor_rollout_ref.actor.loss_agg_mode=token-mean

    # Dynamic sampling: prompts whose rollouts are all bad, all good (over tau) or unscored are dropped, and others drawn.
    algorithm.filter_groups.enable=True
    algorithm.filter_groups.metric=reward
    trainer.v1.sampler.sync_refill_failed_groups=True
    "trainer.v1.sampler.custom_sampler.path='$here/recap_sampler.py'"
    trainer.v1.sampler.custom_sampler.name=RecapReplayBuffer
    '+trainer.v1.sampler.sampler_kwargs.train_batch_size=${data.train_batch_size}'
    '+trainer.v1.sampler.sampler_kwargs.dynamic=${algorithm.filter_groups.enable}'
    +trainer.v1.sampler.sampler_kwargs.tau=0.95
    +trainer.v1.sampler.sampler_kwargs.max_refills=3

    # The training stops where over a quarter of a reward's answers are unscored, or over nine tenths of the prompts
    # missing, in five steps in a row. null only warns.
    '+trainer.v1.sampler.sampler_kwargs.stop={unscored: 0.25, short: 0.9, steps: 5}'

    # Rewards: one process, whose engine bounds what the judges are asked at once. `naive` hands on what the agent loop
    # found, which the manager called `dapo` doesn't.
    "reward.custom_reward_function.path='$here/recap_reward.py'"
    reward.custom_reward_function.name=compute_score
    "+reward.custom_reward_function.reward_kwargs.rewards='$here/rewards.yaml'"
    "+reward.custom_reward_function.reward_kwargs.ledger='$ledger'"
    reward.reward_manager.name=naive
    reward.num_workers=1

    # What the paper doesn't say.
    "actor_rollout_ref.model.path='$model'"
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.tensor_model_parallel_size="${TP:-1}"
    data.train_batch_size=64
    actor_rollout_ref.actor.ppo_mini_batch_size=64
    actor_rollout_ref.actor.use_dynamic_bsz=True
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16000
    actor_rollout_ref.actor.optim.lr=1e-6
    trainer.n_gpus_per_node="${GPUS:-8}"
    trainer.nnodes="${NODES:-1}"
    trainer.logger="[console]"
    trainer.project_name=recap
    trainer.experiment_name=@NAME@
    "trainer.default_local_dir='$run/checkpoints'"
    trainer.save_freq=20
)
exec "$python" -m verl.trainer.main_ppo "${overrides[@]}" "$@"
