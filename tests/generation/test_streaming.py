"""A stream gives what `generate` gives, a step at a time; the streamer classes show what the peer's show."""

import asyncio
import inspect
import queue
from functools import cache
from threading import Thread
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import glassformer
from glassformer.errors import GenerationError
from glassformer.generation import streamers
from glassformer.generation.streaming import StreamStep, _Writer

from .test_assisted import nudged
from .texts import NAMES, TEXT, backend, tokenizer
from .tiny import ALL, DECODERS, ENCODER_DECODERS, ENDS, ours, peer, ragged

CALLS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sample": {"do_sample": True, "seed": 5, "num_return_sequences": 2},
    "lookup": {"prompt_lookup_num_tokens": 4},
    "assisted": {"helped": True},
}
KINDS = ("bytes", "fallback", "pieces")


@cache
def model_of(kind: str) -> Any:
    """A tiny Llama with the vocabulary of a tokenizer."""
    config = glassformer.LlamaConfig(
        vocab_size=len(tokenizer(kind)), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.4,
    )  # fmt: skip
    torch.manual_seed(2)
    return glassformer.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("name", ALL)
def test_steps(name: str, call: dict[str, Any]) -> None:
    """Tokens, probabilities and ends of the steps are those of `generate`, in a ragged batch."""
    ids, mask = ragged()
    call = {"attention_mask": mask, "max_new_tokens": 14, "eos_token_id": ENDS, "repetition_penalty": 1.1, **call}
    if call.pop("helped", False):
        call["assistant_model"] = nudged(name)
    out = ours(name).generate(ids, **call, return_dict_in_generate=True, output_scores=True)
    steps = list(ours(name).stream(ids, **call))
    assert all(isinstance(step, StreamStep) and step.texts is None for step in steps)
    tokens = torch.stack([step.tokens for step in steps], dim=1)
    assert torch.equal(tokens, out.sequences[:, -len(steps) :])
    assert tuple(steps[-1].finished) == out.finish_reason
    ended = [False] * len(tokens)
    for step, scores in zip(steps, out.scores):
        wanted = scores.softmax(dim=-1).gather(1, step.tokens[:, None])[:, 0]
        wanted[torch.tensor(ended)] = 1.0
        torch.testing.assert_close(step.probabilities, wanted)
        ended = [reason is not None for reason in step.finished]
    assert all(reason in ("eos", "length") for reason in steps[-1].finished)


def test_is_a_generator_that_stops_with_its_caller() -> None:
    """Nothing runs before it is asked for, or after the caller stops; errors come from the call itself."""
    model, runs = ours(DECODERS[1]), []
    handle = model.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        steps = model.stream(ragged()[0], max_new_tokens=10, eos_token_id=None)
        assert inspect.isgenerator(steps)
        assert runs == []
        for count, _ in enumerate(steps, 1):
            assert len(runs) == count
            assert torch.is_grad_enabled()
            if count == 3:
                break
        steps.close()
        assert len(runs) == 3
    finally:
        handle.remove()
    with pytest.raises(GenerationError, match="colour"):
        model.stream(ragged()[0], colour=3)
    with pytest.raises(GenerationError, match="num_beams"):
        model.stream(ragged()[0], num_beams=3)
    with pytest.raises(GenerationError, match="streamer"):
        model.stream(ragged()[0], streamer=streamers.TextStreamer(tokenizer("bytes")))


@pytest.mark.parametrize("kind", KINDS)
def test_texts(kind: str) -> None:
    """The pieces of every row, put together, are what its tokens add to the prompt's text; none is half a character."""
    own = tokenizer(kind)
    inputs = own(["The quick", "the lazy dog's naïve"], padding=True, return_tensors="pt", return_token_type_ids=False)
    call = {"max_new_tokens": 40, "do_sample": True, "top_k": 0, "temperature": 2.0, "seed": 1}
    texts = ["", ""]
    for step in model_of(kind).stream(**inputs, tokenizer=own, **call):
        texts = [text + piece for text, piece in zip(texts, step.texts)]
    out = model_of(kind).generate(**inputs, **call)
    for row, prompt, text in zip(out, inputs["input_ids"], texts):
        before, whole = (
            own.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in (prompt, row)
        )
        if kind != "fallback":  # whose decoder changes what it has written when bytes follow that are no text
            assert text == whole.removeprefix(before)


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_pieces_of_real_text(kind: str, data: st.DataObject) -> None:
    """Text, of characters of up to four bytes, comes whole in pieces that are never half a character."""
    own = tokenizer(kind)
    alphabet = sorted(set(TEXT))
    prompt = own("The " + data.draw(st.text(alphabet, max_size=8)), add_special_tokens=False)["input_ids"]
    new = own(data.draw(st.text(alphabet, min_size=1, max_size=30)), add_special_tokens=False)["input_ids"]
    if not new:
        return
    writer = _Writer(own, prompt, True)
    pieces = [writer.write(token, at == len(new) - 1) for at, token in enumerate(new)]
    before, whole = (
        own.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in (prompt, prompt + new)
    )
    assert "".join(pieces) == whole.removeprefix(before)
    assert not any("\ufffd" in piece for piece in pieces)


def test_what_is_never_whole_comes_at_the_end() -> None:
    """Bytes that end in the middle of a character are held back, and shown as such with the last token."""
    own = tokenizer("bytes")
    piece = own.convert_tokens_to_ids("ð")  # the first byte of four
    writer = _Writer(own, own("The")["input_ids"], True)
    assert [writer.write(piece, False), writer.write(piece, False)] == ["", ""]
    assert writer.write(own.convert_tokens_to_ids("a"), False) == "\ufffd\ufffda"
    assert writer.write(piece, True) == "\ufffd"


def test_a_prompt_that_ends_inside_a_character() -> None:
    """The character that a prompt began is written when it is whole."""
    own = tokenizer("bytes")
    first, *rest = own("🚀")["input_ids"]
    assert len(rest) >= 1
    writer = _Writer(own, [*own("The")["input_ids"], first], True)
    assert "".join(writer.write(token, False) for token in rest) == "🚀"


def test_special_tokens() -> None:
    """Special tokens are left out of the texts, or written if that is wanted."""
    own = tokenizer("bytes")
    call = {"tokenizer": own, "max_new_tokens": 1, "forced_eos_token_id": 2}
    ids = own("The", return_tensors="pt")["input_ids"]
    (step,) = model_of("bytes").stream(ids, **call)
    assert (step.texts, step.finished, step.tokens.tolist()) == ([""], ["eos"], [2])
    (step,) = model_of("bytes").stream(ids, skip_special_tokens=False, **call)
    assert step.texts == ["</s>"]


def both_tokenizers(kind: str) -> tuple[Any, Any]:
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=backend(kind), **NAMES)
    return tokenizer(kind), theirs


@pytest.mark.parametrize("skip_prompt", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_text_streamer(kind: str, skip_prompt: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints exactly what the peer's prints, piece by piece, over lines, ideographs and broken words."""
    shown = []
    ids = tokenizer(kind)(TEXT, return_tensors="pt")["input_ids"]
    for library, own in zip((streamers, transformers), both_tokenizers(kind)):
        streamer = library.TextStreamer(own, skip_prompt=skip_prompt, skip_special_tokens=True)
        pieces = []
        for _ in range(2):  # the second time from the beginning
            streamer.put(ids[:, :3])
            for token in ids[0, 3:]:
                streamer.put(token[None])
                pieces.append(capsys.readouterr().out)
            streamer.end()
            pieces.append(capsys.readouterr().out)
        shown.append(pieces)
    assert shown[0] == shown[1]
    assert len([piece for piece in shown[0] if piece.strip()]) > 10


def test_streamers_refuse_batches() -> None:
    """One sequence can be shown, not two: the class of the error is the peer's."""
    with pytest.raises(GenerationError, match="stream"):
        streamers.TextStreamer(tokenizer("bytes")).put(torch.ones(2, 3))
    with pytest.raises(TypeError):
        streamers.BaseStreamer()


@pytest.mark.parametrize("name", [DECODERS[2], ENCODER_DECODERS[0]])
def test_iterator_streamer(name: str) -> None:
    """The pieces that come out of a thread are the peer's, assisted decoding included."""
    ids = ragged()[0][:1]
    results = []
    for model, library, own in zip((ours(name), peer(name)), (streamers, transformers), both_tokenizers("bytes")):
        streamer = library.TextIteratorStreamer(own, skip_prompt=True, timeout=20)
        call = {"inputs": ids, "streamer": streamer, "max_new_tokens": 12, "prompt_lookup_num_tokens": 3}
        thread = Thread(target=model.generate, kwargs=call)
        thread.start()
        results.append("".join(streamer))
        thread.join()
    assert results[0] == results[1] != ""


def test_streamers_time_out() -> None:
    """Waiting ends after the timeout, with the exceptions of the peer's classes."""
    with pytest.raises(queue.Empty):
        next(streamers.TextIteratorStreamer(tokenizer("bytes"), timeout=0.01))

    async def wait() -> None:
        await anext(aiter(streamers.AsyncTextIteratorStreamer(tokenizer("bytes"), timeout=0.01)))

    with pytest.raises(TimeoutError):
        asyncio.run(wait())


def test_async_streamer() -> None:
    """A coroutine gets the same text as the printed one."""
    ids = ragged()[0][:1]

    async def read() -> str:
        streamer = streamers.AsyncTextIteratorStreamer(tokenizer("bytes"), skip_prompt=True)
        thread = Thread(target=ours(DECODERS[2]).generate, args=(ids,), kwargs={"streamer": streamer})
        thread.start()
        text = "".join([piece async for piece in streamer])
        thread.join()
        return text

    new = ours(DECODERS[2]).generate(ids)[0, 7:]
    assert asyncio.run(read()) == tokenizer("bytes").decode(new)
