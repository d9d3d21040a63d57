"""Sampling against exact distributions, a naive loop, and itself split in other ways."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies import ReadState, SamplingSettings
from spatial_ssrl.policies.tiny.tokenizer import IMAGE
from spatial_ssrl.rollout import InProcess
from spatial_ssrl.rollout.in_process import _choose, _Draw
from support.markov import END, MarkovChain
from support.tiny_vlm import loud_policy, mixed_questions


def sample(
    policy: object,
    prompts: PromptBatch,
    group: int,
    tokens: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
) -> Rollouts:
    return InProcess().sample(
        policy,  # type: ignore[arg-type]  # MarkovChain has all that sampling asks for
        prompts,
        group,
        SamplingSettings(max_new_tokens=tokens, temperature=temperature),
        seed,
    )


def likelihood(counts: Counter[object], probabilities: dict[object, float]) -> float:
    """Return how likely counts at least as odd as these are (Pearson's chi-square test)."""
    total = counts.total()
    assert set(counts) <= {key for key, share in probabilities.items() if share > 0}
    # What is expected less than five times is counted together.
    common = {key: share for key, share in probabilities.items() if share * total >= 5}
    rest = max(1 - sum(common.values()), 0.0)
    pairs = [(counts[key], share * total) for key, share in common.items()]
    if rest * total >= 5:
        pairs.append((total - sum(seen for seen, _ in pairs), rest * total))
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in pairs)
    return float(chi2.sf(statistic, len(pairs) - 1))


# The distribution.


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_whole_completions_follow_the_exact_distribution(temperature: float) -> None:
    chain, group, limit = MarkovChain(), 4000, 3
    rollouts = sample(chain, chain.prompts(), group, limit, temperature)
    for question in range(2):
        texts = rollouts.texts[question * group : (question + 1) * group]
        exact = chain.sequences(question, limit, temperature)
        other = chain.sequences(1 - question, limit, temperature)
        assert likelihood(Counter(texts), exact) > 1e-3
        assert likelihood(Counter(texts), other) < 1e-12


@pytest.mark.parametrize("limits", [{"top_k": 2}, {"top_p": 0.8}, {"min_p": 0.138}])
def test_limits_leave_the_renormalised_distribution(limits: dict[str, float]) -> None:
    chain = MarkovChain(1)
    settings = SamplingSettings(max_new_tokens=1, **limits)  # type: ignore[arg-type]
    rollouts = InProcess().sample(chain, chain.prompts(), 4000, settings, 3)  # type: ignore[arg-type]
    whole = chain.table[0, 0].double().softmax(-1).tolist()
    ranked = sorted(range(5), key=lambda token: -whole[token])
    if "top_k" in limits:
        said = ranked[:2]
    elif "top_p" in limits:
        before = [sum(whole[other] for other in ranked[:place]) for place in range(5)]
        said = [token for token, share in zip(ranked, before, strict=True) if share < 0.8]
    else:
        said = [token for token in ranked if whole[token] >= 0.138 * whole[ranked[0]]]
    assert 1 < len(said) < 4
    mass = sum(whole[token] for token in said)
    exact: dict[object, float] = {token: whole[token] / mass for token in said}
    assert likelihood(Counter(rollouts.tokens[:, 0].tolist()), exact) > 1e-3
    for token, logprob in zip(rollouts.tokens[:, 0].tolist(), rollouts.logprobs[:, 0], strict=True):
        assert float(logprob.exp()) == pytest.approx(exact[token], rel=1e-5)


def test_completions_of_a_group_are_independent() -> None:
    chain, group = MarkovChain(1), 6000
    texts = sample(chain, chain.prompts(), group, 2).texts
    single = chain.sequences(0, 2, 1.0)
    pairs = {(one, two): single[one] * single[two] for one in single for two in single}
    assert likelihood(Counter(zip(texts[::2], texts[1::2], strict=True)), pairs) > 1e-3


def test_real_policy_samples_from_its_softmax() -> None:
    policy, group = loud_policy(), 3000
    prompts = policy.collator()(mixed_questions()[:1])
    rollouts = sample(policy, prompts, group, tokens=2, temperature=0.5)
    (image,) = policy.tokenizer.convert_tokens_to_ids([IMAGE])

    def softmax(ids: Tensor) -> dict[object, float]:
        mask = torch.ones_like(ids)
        with torch.no_grad():
            logits = policy.network(
                input_ids=ids, attention_mask=mask, pixel_values=prompts.vision["pixel_values"]
            ).logits[0, -1]
        logits[image] = float("-inf")
        return dict(enumerate((logits / 0.5).double().softmax(-1).tolist()))

    first = Counter(rollouts.tokens[:, 0].tolist())
    assert likelihood(first, softmax(prompts.input_ids)) > 1e-3
    ((common, _),) = first.most_common(1)
    after = rollouts.tokens[(rollouts.tokens[:, 0] == common) & rollouts.mask[:, 1], 1]
    assert len(after) > 100
    ids = torch.cat([prompts.input_ids, torch.tensor([[common]])], dim=1)
    assert likelihood(Counter(after.tolist()), softmax(ids)) > 1e-3


def test_extreme_random_numbers_pick_tokens_that_can_be_said() -> None:
    scores = torch.tensor([[float("-inf"), 1.0, 2.0, 0.5, float("-inf")]])
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    tokens, logprobs = _choose(scores, torch.tensor([0, 0]), ends, SamplingSettings())
    assert tokens.tolist() == [1, 3]
    torch.testing.assert_close(logprobs, scores.log_softmax(-1)[0, [1, 3]])


def test_numbers_of_completions_alone_on_their_rows_meet_the_same_tokens() -> None:
    torch.manual_seed(0)
    scores, row = torch.randn(6, 40), torch.tensor([4, 0, 5, 2])  # On two rows nobody is left.
    numbers, sampling = torch.rand(4, dtype=torch.float64), SamplingSettings()
    wanted = _choose(scores, row, numbers, sampling)
    found = _choose(scores, row, numbers, sampling, True)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_all_that_is_drawn_lies_on_the_device_of_the_prompts(temperature: float) -> None:
    prompts = MarkovChain().prompts().to(torch.device("meta"))
    sampling = SamplingSettings(max_new_tokens=3, temperature=temperature)
    draw = _Draw.start(prompts, 2, sampling, 0)
    for tensor in (draw.uniform, draw.tokens, draw.mask, draw.logprobs, draw.truncated):
        assert tensor.device.type == "meta"
        assert tensor.shape[0] == 4


# What a completion depends on.


def by_uid(prompts: PromptBatch, rollouts: Rollouts) -> dict[str, list[tuple[int, ...]]]:
    """Return the completions of each question, without padding."""
    said = [
        tuple(row[kept].tolist()) for row, kept in zip(rollouts.tokens, rollouts.mask, strict=True)
    ]
    size = rollouts.group_size
    return {
        question.uid: said[row * size : (row + 1) * size]
        for row, question in enumerate(prompts.questions)
    }


@pytest.mark.parametrize("rows", [[4, 2, 0, 3, 1], [1, 3], [0], [4]])
def test_completions_do_not_depend_on_the_company(rows: list[int]) -> None:
    chain = MarkovChain(5)
    whole = chain.prompts()
    wanted = by_uid(whole, sample(chain, whole, 30, seed=11))
    some = chain.select(whole, rows)
    found = by_uid(some, sample(chain, some, 30, seed=11))
    assert found == {question.uid: wanted[question.uid] for question in some.questions}
    assert len({tuple(group) for group in wanted.values()}) == 5


@pytest.mark.parametrize("budget", [None, 120])
@pytest.mark.parametrize("rows", [[2, 0, 1], [1], [2, 1]])
def test_completions_of_a_real_policy_do_not_either(rows: list[int], budget: int | None) -> None:
    policy = loud_policy()
    questions = mixed_questions()
    whole = policy.collator()(questions)
    wanted = by_uid(whole, sample(policy, whole, 8, seed=4))
    some = policy.collator()([questions[row] for row in rows])
    found = InProcess(budget).sample(policy, some, 8, SamplingSettings(8), 4)
    assert by_uid(some, found) == {q.uid: wanted[q.uid] for q in some.questions}


def test_completions_do_not_depend_on_how_many_there_are() -> None:
    chain = MarkovChain(2)
    prompts = chain.prompts()
    few, many = sample(chain, prompts, 3), sample(chain, prompts, 20)
    for uid, group in by_uid(prompts, many).items():
        assert group[:3] == by_uid(prompts, few)[uid]


def test_a_question_asked_twice_is_answered_anew() -> None:
    chain = MarkovChain(2)
    prompts = chain.select(chain.prompts(), [0, 1, 0])
    rollouts = sample(chain, prompts, 30)
    first, again = rollouts.texts[:30], rollouts.texts[60:]
    alone = sample(chain, chain.select(chain.prompts(), [0]), 30).texts
    assert first == alone
    assert again != alone


@pytest.mark.parametrize("budget", [1, 30, 61, 200, 10_000])
def test_memory_limit_changes_no_completion(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, group, limit = MarkovChain(5), 7, 6
    prompts = chain.prompts()
    wanted = sample(chain, prompts, group, limit)
    reads: list[int] = []
    read = chain.read

    def watched(part: PromptBatch) -> ReadState:
        reads.append(len(part))
        return read(part)

    monkeypatch.setattr(chain, "read", watched)
    settings = SamplingSettings(max_new_tokens=limit)
    found = InProcess(budget).sample(chain, prompts, group, settings, 0)  # type: ignore[arg-type]
    assert torch.equal(found.tokens, wanted.tokens)
    assert torch.equal(found.mask, wanted.mask)
    assert torch.equal(found.logprobs, wanted.logprobs)
    assert found.texts == wanted.texts
    assert torch.equal(found.truncated, wanted.truncated)
    # Two questions of ten tokens, three of two: a completion takes 16 and 8 with its prompt, so
    # 30 hold one and three of seven, 61 hold three and seven, 200 one group and three.
    assert len(reads) == {1: 35, 30: 14 + 9, 61: 6 + 3, 200: 2 + 1, 10_000: 2}[budget]


def test_seed_names_the_completions() -> None:
    policy = loud_policy()
    prompts = policy.collator()(mixed_questions())
    torch.manual_seed(1)
    one = sample(policy, prompts, 4, seed=3)
    torch.manual_seed(2)
    again, other = sample(policy, prompts, 4, seed=3), sample(policy, prompts, 4, seed=4)
    assert torch.equal(one.tokens, again.tokens)
    assert torch.equal(one.logprobs, again.logprobs)
    assert one.texts == again.texts
    assert not torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("parts", [[[0, 1, 2]], [[2], [0], [1]], [[1], [0, 2]]])
def test_splitting_the_batch_changes_no_completion(
    parts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = loud_policy()
    prompts = policy.collator()(mixed_questions())
    whole = sample(policy, prompts, 5)
    assert len(prompts.alike()) > 1
    monkeypatch.setattr(PromptBatch, "alike", lambda self, rows=None: parts)
    split = sample(policy, prompts, 5)
    assert torch.equal(split.tokens, whole.tokens)
    assert torch.equal(split.mask, whole.mask)
    torch.testing.assert_close(split.logprobs, whole.logprobs, atol=1e-5, rtol=1e-5)
    assert split.texts == whole.texts


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(8),
        SamplingSettings(8, temperature=0.7),
        SamplingSettings(8, temperature=1.3, top_k=20),
        SamplingSettings(8, top_p=0.7, min_p=0.02),
    ],
)
def test_kept_logprobs_are_those_scored(settings: SamplingSettings) -> None:
    policy = loud_policy()
    prompts = policy.collator()(mixed_questions())
    for seed in range(3):
        rollouts = InProcess().sample(policy, prompts, 6, settings, seed)
        with torch.no_grad():
            scored = policy.logprobs(prompts, rollouts, settings)
        torch.testing.assert_close(rollouts.logprobs, scored, atol=1e-5, rtol=1e-5)


# What is never said, and what ends.


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_placeholders_are_never_sampled(temperature: float) -> None:
    policy = loud_policy()
    prompts = policy.collator()(mixed_questions())
    (image,) = policy.tokenizer.convert_tokens_to_ids([IMAGE])
    head = policy.network.get_output_embeddings()
    with torch.no_grad():
        # Image tokens replace the placeholder's embedding, so this changes nothing but the head.
        hidden = policy.read(prompts).hidden
        head.weight[image] = 100 * torch.linalg.pinv(hidden).sum(1)
        assert (head(hidden)[:, image] > 50).all()
        assert (head(hidden).argmax(-1) == image).all()
    rollouts = sample(policy, prompts, 20, temperature=temperature)
    assert not (rollouts.tokens[rollouts.mask] == image).any()
    if rollouts.logprobs is not None:
        assert torch.isfinite(rollouts.logprobs).all()


def test_ended_completions_are_masked_and_cut_ones_told() -> None:
    chain, limit = MarkovChain(), 4
    rollouts = sample(chain, chain.prompts(), 200, limit)
    assert rollouts.group_size == 200
    assert rollouts.truncated.any()
    assert not rollouts.truncated.all()
    assert rollouts.logprobs is not None
    for row in range(len(rollouts)):
        said = rollouts.tokens[row][rollouts.mask[row]].tolist()
        ended = END in said
        # One end, at the end; what is masked comes after it and is zero.
        assert said.index(END) == len(said) - 1 if ended else len(said) == limit
        assert bool(rollouts.truncated[row]) is not ended
        assert rollouts.mask[row].tolist() == [column < len(said) for column in range(limit)]
        assert rollouts.tokens[row][~rollouts.mask[row]].tolist() == [0] * (limit - len(said))
        assert rollouts.logprobs[row][~rollouts.mask[row]].tolist() == [0] * (limit - len(said))
        assert rollouts.texts[row] == "".join("abcd."[token] for token in said)
        steps = chain.table[row // 200].log_softmax(-1)
        wanted = [float(steps[a, b]) for a, b in zip([0, *said], said, strict=False)]
        assert rollouts.logprobs[row, : len(said)].tolist() == pytest.approx(wanted, abs=1e-5)


def test_batch_is_as_wide_as_its_longest_completion() -> None:
    chain = MarkovChain()
    chain.table[..., END] = 10
    rollouts = sample(chain, chain.prompts(), 8, tokens=50)
    assert rollouts.tokens.shape == (16, int(rollouts.mask.sum(1).max()))
    assert rollouts.tokens.shape[1] < 5


def test_texts_are_those_of_the_real_tokens() -> None:
    policy = loud_policy()
    prompts = policy.collator()(mixed_questions())
    rollouts = sample(policy, prompts, 2)
    for row, text in enumerate(rollouts.texts):
        said = rollouts.tokens[row][rollouts.mask[row]]
        assert text == policy.tokenizer.decode(said, skip_special_tokens=True)


def test_greedy_is_the_argmax_of_a_naive_loop() -> None:
    policy = loud_policy()
    questions = mixed_questions()
    rollouts = sample(policy, policy.collator()(questions), 2, tokens=6, temperature=0)
    assert rollouts.logprobs is None
    (image,) = policy.tokenizer.convert_tokens_to_ids([IMAGE])
    for number, question in enumerate(questions):
        alone = policy.collator()([question])
        said: list[int] = []
        while len(said) < 6 and (not said or said[-1] not in policy.end_token_ids):
            ids = torch.cat([alone.input_ids, torch.tensor([said], dtype=torch.int64)], dim=1)
            with torch.no_grad():
                logits = policy.network(input_ids=ids, **alone.vision).logits[0, -1]
            logits[image] = float("-inf")
            said.append(int(logits.argmax()))
        for row in (2 * number, 2 * number + 1):
            assert rollouts.tokens[row][rollouts.mask[row]].tolist() == said


def test_rows_of_the_cache_follow_who_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    # One question ends at once while the other parts in two: as many rows as before, but both
    # continue the second row.
    chain = MarkovChain()
    chain.table[:] = float("-inf")
    chain.table[0, :, END] = 0
    chain.table[1, 0, 1:3] = 0
    chain.table[1, 1, 2] = 0
    chain.table[1, 2, END] = 0
    monkeypatch.setattr(PromptBatch, "alike", lambda self, rows=None: [[0, 1]])
    texts = sample(chain, chain.prompts(), 4, 4).texts
    assert texts[:4] == (".",) * 4
    assert set(texts[4:]) == {"bc.", "c."}


def test_prompts_read_apart_are_continued_together(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = loud_policy()
    prompts = policy.collator()(mixed_questions())
    reads, steps = [], []
    read, read_on = policy.read, policy.read_on

    def watched_read(part: PromptBatch) -> ReadState:
        reads.append(len(part))
        return read(part)

    def watched_read_on(state: ReadState, tokens: Tensor, mask: Tensor) -> tuple[ReadState, Tensor]:
        steps.append(len(tokens))
        return read_on(state, tokens, mask)

    monkeypatch.setattr(policy, "read", watched_read)
    monkeypatch.setattr(policy, "read_on", watched_read_on)
    rollouts = sample(policy, prompts, 5)
    assert reads == [1, 1, 1]
    assert len(steps) == rollouts.tokens.shape[1] - 1
    for step, rows in enumerate(steps):
        assert rows <= int(rollouts.mask[:, step + 1].sum())


def test_agreeing_completions_share_one_row_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = MarkovChain(1)
    rows: list[int] = []
    read_on = chain.read_on

    def watched(state: ReadState, tokens: Tensor, mask: Tensor) -> tuple[ReadState, Tensor]:
        rows.append(len(tokens))
        return read_on(state, tokens, mask)

    monkeypatch.setattr(chain, "read_on", watched)
    rollouts = sample(chain, chain.prompts(), 500, 3)
    texts = [text for text in rollouts.texts if "." not in text[:2]]
    distinct = {text[0] for text in rollouts.texts if text[0] != "."}, {text[:2] for text in texts}
    assert rows == [len(distinct[0]), len(distinct[1])]
