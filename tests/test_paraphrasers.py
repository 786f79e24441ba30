"""Paraphrasers with a real model, and with a real endpoint on this machine."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
import torch
from openai import OpenAI

from memorised import PROBLEMS, TOKENIZER, memorised
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.paraphrasers import PROMPT, CausalLMParaphraser, OpenAIParaphraser
from tiny_models import tiny_model
from tokenizers_on_the_spot import gpt2_style


def test_any_causal_model_writes_the_paraphrase() -> None:
    """What it says is what greedy decoding writes to the prompt, and the model is left as it was."""
    model = memorised()
    paraphraser = CausalLMParaphraser(model, TOKENIZER, prompt="{text}", max_new_tokens=40)
    texts = [str(problem.prompt) for problem in PROBLEMS[:3]]
    found = paraphraser(texts)
    assert model.training
    for text, paraphrase in zip(texts, found, strict=True):
        ids = torch.tensor([TOKENIZER(text)["input_ids"]])
        with torch.no_grad():
            end = memorised().eval().generate(input_ids=ids, max_new_tokens=40, do_sample=False, pad_token_id=0)[0]
        assert paraphrase == TOKENIZER.decode(end[ids.shape[1] :], skip_special_tokens=True)


def test_a_paraphrase_without_an_end_is_none() -> None:
    tokenizer = gpt2_style()
    paraphraser = CausalLMParaphraser(tiny_model("qwen3", vocab_size=len(tokenizer)), tokenizer, max_new_tokens=4)
    assert paraphraser(["Ann has 3 eggs."]) == [None]


def test_the_prompt_needs_a_place_for_the_text() -> None:
    assert "{text}" in PROMPT
    for make in (lambda: CausalLMParaphraser(memorised(), TOKENIZER, prompt="Rewrite."), _endpoint_without_text):
        with pytest.raises(ConfigurationError, match=r"must hold \{text\}"):
            make()


def _endpoint_without_text() -> OpenAIParaphraser:
    return OpenAIParaphraser("any", client=OpenAI(api_key="none"), prompt="Rewrite.")


class Endpoint(BaseHTTPRequestHandler):
    """Answers as an OpenAI-compatible server does: with the text in capitals, in quotation marks."""

    requests: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append({"path": self.path, "key": self.headers["Authorization"], **request})
        text = request["messages"][0]["content"].split("Text: ")[1]
        if "broken" in text:
            self.send_error(400, "no such text")
            return
        content = "" if "silence" in text else f'"{text.upper()}"\n'
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        body = json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def client() -> Iterator[OpenAI]:
    Endpoint.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="local", max_retries=0)
    server.shutdown()
    server.server_close()


def test_an_endpoint_paraphrases_through_the_official_client(client: OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    paraphraser = OpenAIParaphraser("some-model", client=client, prompt="Rewrite.\nText: {text}", parallel=3)
    texts = ["first", "second", "broken", "silence", "fifth"]
    with caplog.at_level(logging.WARNING):
        assert paraphraser(texts) == ["FIRST", "SECOND", None, None, "FIFTH"]
    assert "1 of 5 texts have no paraphrase" in caplog.text
    assert len(Endpoint.requests) == 5
    for request in Endpoint.requests:
        assert request["path"] == "/v1/chat/completions"
        assert request["key"] == "Bearer local"
        assert (request["model"], request["temperature"]) == ("some-model", 0)
        assert request["messages"][0]["content"].startswith("Rewrite.\nText: ")
    assert paraphraser([]) == []


def test_without_a_client_the_environment_tells_where(monkeypatch: pytest.MonkeyPatch, client: OpenAI) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", str(client.base_url))
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    assert OpenAIParaphraser("m", prompt="Text: {text}")(["first"]) == ["FIRST"]
    assert Endpoint.requests[0]["key"] == "Bearer from the environment"
