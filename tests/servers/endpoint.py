"""An OpenAI-compatible server that writes harmless text, the same ever again, and misbehaves on demand.

It runs in a process of its own. In a test or a benchmark (both find it by this name, since the project is installed in
place; nothing needs to be put into a conftest):

    from tests.servers.endpoint import endpoint

    with endpoint(latency=0.05, faults="429=2, reset", fault_share=0.3) as server:
        client = openai.AsyncOpenAI(base_url=server.base_url, api_key="any")
        ...
        assert max(server.answered().values()) == 1      # no request was answered twice

By hand, `python -m tests.servers.endpoint --port 8000 --latency 0.05` prints its addresses as one line of JSON.
`Options` lists what can be set; `Endpoint.set` changes it while the server runs. The faults are in `faults.py` and
`oddities.py`.

Routes: `/v1/models`, `/v1/completions`, `/v1/chat/completions`, `/v1/files` and `/v1/batches` as OpenAI has them,
`/tokenize` and `/detokenize` as vLLM has them, `/admin/log`, `/admin/faults` and `/admin/reset`. Nothing is streamed.

What a model writes is a function of its name, the prompt, the seed, temperature and top_p. A model named `…-refuse`
thinks over-cautiously, any other one compliantly, in words that fit every prompt and name nothing; one with `swayed` in
its name thinks as the words that it goes on from. A prompt that ends
within the thinking, or within the answer, is continued; where it ends with words that stood in it before, so does the
answer go on as it went on there. `guard-*` and `judge-*` models tell the two ways of thinking apart, by their wording,
and answer in the words of the guards' cards; `guard-safeguard` thinks first, as gpt-oss does behind vLLM: its thinking
is in the field `reasoning`, and its log-probabilities are those of all that it wrote.

A token's id is a byte: so /tokenize has it, token prompts, the prompts in `usage` and `context`. What is written is
counted in words and marks, each one token for `max_tokens`, `usage` and log-probabilities.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import subprocess
import time
import urllib.request
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any, NamedTuple

from aiohttp import web

from tests.servers.faults import FAULTS, HARMLESS, Call, Plan, chance, reply
from tests.servers.oddities import EDITS, ERRORS, LISTINGS, WORDINGS, Error, Twist, problem, unsupported
from tests.servers.process import serve, started


@dataclass(frozen=True)
class Options:
    """What can be set: `--wrong-share 0.2` by hand, `wrong_share=0.2` in Python. Times are in seconds."""

    port: int = 0
    latency: float = 0.0
    """From a request's arrival to its answer, for those that a model answers."""
    models: str = (
        "toy,toy-comply,toy-refuse,guard-llama,guard-granite,guard-granite-3.3,guard-wildguard,guard-qwen3,"
        "guard-safeguard,judge-json"
    )
    api_key: str = ""
    """If given, requests without it are answered with 401."""

    thinking: str = "think"
    """How thinking is marked: think (<think> and </think>), unopened (the template writes <think>, as DeepSeek's
    does), channel (as gpt-oss does), none; or the field of the chat answer that it's put into: reasoning or
    reasoning_content."""
    words: int = 120
    """Of thinking, give or take a fifth."""
    wrong_share: float = 0.0
    """Of answers that take the other stance; like the next two chosen by a hash of prompt and seed."""
    short_share: float = 0.0
    """Of answers that think for one sentence."""
    unreadable_share: float = 0.0
    """Of judges' answers that hold no label."""
    unsafe_word: str = "unsafe-mark"
    """A text that holds it is unsafe to every guard and judge."""
    rubric_complies: str = '{"reasoning": "It plans an answer.", "stance": "complies", "score": 0.9}'
    rubric_refuses: str = '{"reasoning": "It plans to decline.", "stance": "refuses", "score": 0.1}'
    """What judge-json answers. Asked for the first sentence that is aware of safety, it names the first to refuse."""
    rubric_spares: str = ""
    """Pattern of prompts that judge-json answers well whatever is set; empty: none."""
    logprobs: bool = True
    """Whether log-probabilities are given to who asks for them."""
    response_format: bool = True
    """Whether requests may hold a response_format; they get 400 otherwise."""
    rejects: str = ""
    """Other fields that requests may not hold: "seed, max_tokens"."""
    rejects_as: str = "openai"
    """Whose words and status they are told so with, by a name in `oddities.WORDINGS`."""
    aliases: str = ""
    """Names beside those of `models`, which /models doesn't have: "deployment=toy-comply". Answers name the model."""
    listing: str = "all"
    """What /models says: all, or a name in `oddities.LISTINGS`."""
    echo_ids: bool = False
    """Whether the token ids that were read are told to who asks for them with return_token_ids, as vLLM does."""

    context: int = 0
    """Bytes that a prompt may have, and max_tokens with it; 0: any number."""
    system_role: bool = True
    """Whether the chat template takes system messages; they get 400 otherwise."""
    max_in_flight: int = 0
    """Requests at once, 429 beyond; 0: any number."""
    slots: int = 0
    """Requests that a model works at, as in llama-server: all others wait, however long; 0: any number."""
    service: float = 0.0
    """How long a request has its slot."""
    batch_delay: float = 0.2
    """From a batch's creation to its end."""
    batch_fault: str = ""
    """What goes wrong with batches, by a name in `BATCH_FAULTS`."""
    batch_fault_times: int = 1
    """How many batches it befalls, since the log was cleared."""

    faults: str = ""
    """Names in `faults.FAULTS`, with weights if wanted: "500, reset=2"; or "all", which leaves out silence."""
    fault_share: float = 0.3
    fault_times: int = 3
    """Faults that one request can draw before it is answered well whatever comes."""
    fault_paths: str = r"/v1/(chat/)?completions"
    """Pattern of the paths that faults befall. Lines of a batch that draw one end in its error file with status 500,
    or have the edited answer or the error that the fault is."""
    fault_bodies: str = ""
    """Pattern of what stands in the bodies that faults befall, as JSON; empty: in all of them."""
    refuses: int = 0
    """Status that all requests to the `fault_paths` are answered with until it is set to 0."""
    refuses_with: str = '{"error": {"message": "The server is misconfigured.", "type": "server_error"}}'
    """The body of these answers."""
    seed: int = 0
    slow: float = 1.0
    """How much longer slow answers and slow bodies take."""
    retry_after: float = 1.0
    refuse_for: float = 0.3
    log_bodies: bool = True

    def __post_init__(self) -> None:
        if self.thinking not in MARKS:
            raise ValueError(f"thinking is one of {', '.join(MARKS)}, not {self.thinking!r}")
        if self.batch_fault and self.batch_fault not in BATCH_FAULTS:
            raise ValueError(f"batch_fault is one of {', '.join(BATCH_FAULTS)}, not {self.batch_fault!r}")
        if self.listing != "all" and self.listing not in LISTINGS:
            raise ValueError(f"listing is all or one of {', '.join(LISTINGS)}, not {self.listing!r}")
        if self.rejects_as not in WORDINGS:
            raise ValueError(f"rejects_as is one of {', '.join(WORDINGS)}, not {self.rejects_as!r}")
        Plan.parse(self.faults)


# The log


@dataclass
class Record:
    """One request in the log, and how it was answered. Times are seconds since the epoch.

    ``digest`` is a hash of path and JSON, however its keys are ordered; ``status`` and ``ended`` are None until there
    is an answer; ``sent`` says that all of it was handed over while the client was there. ``worked`` are the seconds
    that it had a slot.
    """

    number: int
    method: str
    path: str
    digest: str
    body: str
    arrived: float
    ended: float | None = None
    status: int | None = None
    fault: str | None = None
    sent: bool = False
    batch: str | None = None
    worked: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether the client was sent a whole answer that it can use."""
        return self.status == 200 and self.sent and self.fault in HARMLESS


class Problem(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", **more: str) -> None:
        super().__init__(message)
        self.status = status
        self.body: Any = problem(message, kind, **more)

    @classmethod
    def of(cls, error: Error) -> Problem:
        found = cls(error.status, "")
        found.body = error.body
        return found


# The server


class Server:
    """The routes, the log, the faults and the batches of one server."""

    def __init__(self, options: Options) -> None:
        self.started_with = options
        self.slots, self.free = 0, asyncio.Semaphore(0)
        self.set(options)
        self.clear()
        self.in_flight = 0
        self.listener: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    def set(self, options: Options) -> None:
        weights = Plan.parse(options.faults)
        self.options = options
        self.plan = Plan(weights, options.fault_share, options.fault_times, options.seed)
        self.fault_paths = re.compile(options.fault_paths)
        self.fault_bodies = re.compile(options.fault_bodies)
        self.models = options.models.split(",")
        self.aliases = dict(pair.strip().split("=") for pair in options.aliases.split(",") if pair)
        if options.slots != self.slots:
            self.slots, self.free = options.slots, asyncio.Semaphore(options.slots)

    def clear(self) -> None:
        self.log: list[Record] = []
        self.came: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.most_in_flight = 0
        self.files: dict[str, File] = {}
        self.batches: dict[str, Batch] = {}
        self.batch_faults = 0

    async def listen(self) -> tuple[str, str]:
        """Take requests; return the addresses of the server and of its admin routes, which is never closed."""
        loop = asyncio.get_running_loop()
        self.protocol = web.Server(self.serve, request_factory=_request, handler_cancellation=True, access_log=None)
        self.admin_listener = await loop.create_server(self.protocol, "127.0.0.1", 0)
        self.port = self.options.port
        await self._open()
        admin_port = self.admin_listener.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{self.port}/v1", f"http://127.0.0.1:{admin_port}/admin"

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self.listener = await loop.create_server(self.protocol, "127.0.0.1", self.port, backlog=2048)
        self.port = self.listener.sockets[0].getsockname()[1]

    def stop_listening(self, seconds: float) -> None:
        """Close the listening socket for a while. If it is closed already, this does nothing."""
        if self.listener is None:
            return
        self.listener.close()
        self.listener = None

        async def come_back() -> None:
            await asyncio.sleep(seconds)
            await self._open()

        task = asyncio.create_task(come_back())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request and log it."""
        upload = request.content_type == "multipart/form-data"
        body = b"" if upload else await request.read()
        if request.path.startswith("/admin/"):
            return self.admin(request.path, body)
        record = self.note(request.method, request.path, body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            response = await self.respond(request, body, record)
            record.status = response.status
            await response.prepare(request)
            await response.write_eof()
            self.sent(record)
        except ConnectionError:
            return web.Response()  # the client is gone
        finally:
            self.in_flight -= 1
            record.ended = time.time()
        return response

    def note(self, method: str, path: str, body: bytes, batch: str | None = None) -> Record:
        """Log a request, with the fault that it draws."""
        digest = blake2b(path.encode() + b"\0" + canonical(body), digest_size=16).hexdigest()
        kept = body.decode("utf-8", "replace") if self.options.log_bodies else ""
        record = Record(len(self.log), method, path, digest, kept, time.time(), batch=batch)
        if self.fault_paths.match(path) and self.fault_bodies.search(body.decode("utf-8", "replace")):
            record.fault = self.plan.draw(digest, self.came[digest])
        self.came[digest] += 1
        self.log.append(record)
        return record

    def sent(self, record: Record) -> None:
        record.sent = True
        self.answered[record.digest] += record.sound

    async def respond(self, request: web.BaseRequest, body: bytes, record: Record) -> web.StreamResponse:
        """The answer to a request, right or wrong. Faults may have sent it in part or in full."""
        options = self.options
        try:
            if options.refuses and self.fault_paths.match(request.path):
                record.fault = "refuses"
                return reply(options.refuses_with.encode(), options.refuses)
            if options.api_key and request.headers.get("Authorization") != f"Bearer {options.api_key}":
                raise Problem(401, "Incorrect API key provided.", code="invalid_api_key")
            if options.max_in_flight and self.in_flight > options.max_in_flight:
                record.fault = "too-many"
                raise Problem(429, "Too many requests at once.", "rate_limit_error", code="rate_limit_exceeded")

            async def answer(twist: Twist) -> Any:
                return await self.route(request, body, twist, record)

            if record.fault is None:
                return reply(await answer("plain"))
            call = Call(request, answer, self.stop_listening, options.slow, options.retry_after, options.refuse_for)
            return await FAULTS[record.fault](call)
        except Problem as error:
            return reply(error.body, error.status)

    async def route(self, request: web.BaseRequest, body: bytes, twist: Twist, record: Record) -> Any:
        """The JSON, or bytes, that a good answer to this request consists of. Raises `Problem`."""
        answer: Any
        match (request.method, *request.path.strip("/").split("/")):
            case ("POST", "v1", "completions") | ("POST", "v1", "chat", "completions"):
                due = asyncio.get_running_loop().time() + self.options.latency
                answer = self.generate(request.path, parse(body), twist, self.answered[record.digest])
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                await self.work(record)
            case ("GET", "v1", "models"):
                answer = self.listing()
            case ("GET", "v1", "models", *name):
                answer = self.model("/".join(name))
            case ("POST", "tokenize"):
                answer = tokenize(self.options, parse(body))
            case ("POST", "detokenize"):
                answer = {"prompt": text_of(parse(body).get("tokens"))}
            case ("POST", "v1", "files"):
                answer = self.upload(await request.post())
            case ("POST", "v1", "batches"):
                answer = await self.create(parse(body))
            case ("GET", "v1", "batches"):
                answer = self.page(int(request.query.get("limit", 20)), request.query.get("after"))
            case ("POST", "v1", "batches", name, "cancel"):
                answer = self.cancel(self.batch(name))
            case (method, "v1", "files" | "batches" as kind, *rest):
                answer = self.look_up(method, kind, rest)
            case _:
                raise Problem(404, f"Invalid URL ({request.method} {request.path})")
        return answer

    def listing(self) -> Any:
        """What /v1/models says."""
        if self.options.listing == "all":
            return {"object": "list", "data": [self.model(name) for name in self.models]}
        told = LISTINGS[self.options.listing]
        if told.status != 200:
            raise Problem.of(told)
        return told.body

    async def work(self, record: Record) -> None:
        """Wait for a slot, and keep it for as long as an answer takes, or until the client is gone."""
        if not self.options.slots:
            return
        async with self.free:
            began = time.time()
            try:
                await asyncio.sleep(self.options.service)
            finally:
                record.worked += time.time() - began

    def look_up(self, method: str, kind: str, rest: list[str]) -> Any:
        """What GET says of files and batches."""
        match (method, kind, *rest):
            case ("GET", "files", name):
                return self.file(name).info
            case ("GET", "files", name, "content"):
                return self.file(name).content
            case ("GET", "batches", name):
                return self.batch(name).info
        raise Problem(404, f"Invalid URL ({method} /v1/{'/'.join([kind, *rest])})")

    def model(self, name: Any) -> dict[str, Any]:
        """What /v1/models says of one model. Raises `Problem` if there is none of that name."""
        if name not in self.models:
            message = f"The model `{name}` does not exist. There are: {', '.join(self.models)}"
            raise Problem(404, message, "NotFoundError", param="model", code="model_not_found")
        length = {"max_model_len": self.options.context or 1 << 20}
        return {"id": name, "object": "model", "created": 0, "owned_by": "tests", **length}

    def generate(self, path: str, body: dict[str, Any], twist: Twist, answered: int) -> dict[str, Any]:
        """Answer a request to a model; "another" text than before if it was answered already."""
        body = body | {"model": self.aliases.get(str(body.get("model")), body.get("model"))}
        self.model(body["model"])
        rejected = [field.strip() for field in self.options.rejects.split(",") if field.strip() in body]
        if rejected:
            raise Problem.of(unsupported(rejected[0], self.options.rejects_as))
        if body.get("stream") or body.get("n", 1) != 1:
            raise Problem(400, "This server streams nothing, and writes one answer (n=1).")
        if "response_format" in body and not self.options.response_format:
            raise Problem(400, "response_format is not supported.", param="response_format")
        salt = answered if twist == "another" else 0
        write = chat_completion if path == "/v1/chat/completions" else completion
        return {"id": f"{len(self.log):08x}", "created": int(time.time())} | write(self.options, body, twist, salt)

    # Files and batches

    def upload(self, form: Any) -> dict[str, Any]:
        file = form.get("file")
        if not isinstance(file, web.FileField):
            raise Problem(400, "A file is needed, as form data.", param="file")
        return self.keep(file.file.read(), file.filename, str(form.get("purpose")))

    def keep(self, content: bytes, filename: str, purpose: str) -> dict[str, Any]:
        name = f"file-{len(self.files)}"
        info = {"id": name, "object": "file", "bytes": len(content), "created_at": int(time.time())}
        info |= {"filename": filename, "purpose": purpose, "status": "processed"}
        self.files[name] = File(info, content)
        return info

    def file(self, name: str) -> File:
        if name not in self.files:
            raise Problem(404, f"No such File object: {name}", param="id")
        return self.files[name]

    async def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Take a batch, and do with it what `batch_fault` says."""
        fault = self.options.batch_fault if self.batch_faults < self.options.batch_fault_times else ""
        self.batch_faults += bool(fault)
        if fault == "refused":
            raise Problem(400, "Billing hard limit has been reached.", code="billing_hard_limit_reached")
        info = self.submit(body)
        batch = self.batches[info["id"]]
        batch.fault = fault
        if fault == "invalid":
            message = "Enqueued token limit reached for toy-comply in organization org-tests."
            told = {"code": "token_limit_exceeded", "line": None, "message": message, "param": None}
            info |= {"status": "failed", "errors": {"object": "list", "data": [told]}}
        elif fault == "stuck":
            await asyncio.Event().wait()
        elif fault == "unanswered":
            raise Problem(500, "The server had an error while processing your request.", "server_error")
        return info

    def submit(self, body: dict[str, Any]) -> dict[str, Any]:
        """Take a batch. One whose file can't be read is "failed" from the start."""
        content = self.file(body.get("input_file_id", "")).content
        lines, errors = read_batch(content, body.get("endpoint", ""))
        name, now = f"batch_{len(self.batches)}", time.time()
        info: dict[str, Any] = {"id": name, "object": "batch", "created_at": int(now), "expires_at": int(now) + 86_400}
        info |= {key: body.get(key) for key in ("endpoint", "input_file_id", "completion_window", "metadata")}
        info |= {"status": "in_progress", "output_file_id": None, "error_file_id": None, "errors": None}
        info["request_counts"] = {"total": len(lines), "completed": 0, "failed": 0}
        if errors:
            info |= {"status": "failed", "errors": {"object": "list", "data": errors}}
        self.batches[name] = Batch(info, lines, now, self.options.batch_delay)
        return info

    def page(self, limit: int, after: str | None) -> dict[str, Any]:
        """The batches behind one of them, the newest first."""
        names = [name for name, batch in reversed(self.batches.items()) if not batch.unknown()]
        behind = names[names.index(after) + 1 :] if after in names else names
        infos = [self.batch(name).info for name in behind[:limit]]
        return {"object": "list", "data": infos, "has_more": len(behind) > limit}

    def batch(self, name: str) -> Batch:
        """The batch, as far as it is by now."""
        if name not in self.batches or self.batches[name].unknown():
            raise Problem(404, f"No batch found with id '{name}'.", param="id")
        batch = self.batches[name]
        if batch.info["status"] == "in_progress":
            batch.info["request_counts"]["completed"] = batch.done()
            if batch.done() == len(batch.lines):
                self.finish(batch, "expired" if batch.fault == "expired" else "completed")
        return batch

    def cancel(self, batch: Batch) -> dict[str, Any]:
        """End a batch; what is done by then comes out."""
        if batch.info["status"] != "in_progress":
            raise Problem(409, f"Cannot cancel a batch with status '{batch.info['status']}'.")
        batch.lines = batch.lines[: batch.done()]
        self.finish(batch, "cancelled")
        return batch.info

    def finish(self, batch: Batch, status: str) -> None:
        """Answer a batch's lines and write its files, in an order that is not that of the lines."""
        good: list[str] = []
        bad: list[str] = []
        for number, line in enumerate(sorted(batch.lines, key=lambda line: chance(line["custom_id"]))):
            if batch.fault == "expired" and number % 2:
                told = {"code": "batch_expired", "message": "This request could not be executed before it expired."}
                entry = {"id": f"batch_req_x{number}", "custom_id": line["custom_id"], "response": None, "error": told}
                bad.append(json.dumps(entry) + "\n")
                continue
            if batch.fault == "gaps" and number % 2:
                continue
            code, answer = self.answer_line(line, batch.info["id"])
            if batch.fault == "empty" and number % 2:
                answer = answer | {"choices": []}
            response = {"status_code": code, "request_id": f"req-{len(self.log)}", "body": answer}
            entry = {"id": f"batch_req_{len(self.log)}", "custom_id": line["custom_id"], "response": response}
            (good if code == 200 else bad).append(json.dumps(entry | {"error": None}) + "\n")
        for key, entries in (("output_file_id", good), ("error_file_id", bad)):
            if entries:
                batch.info[key] = self.keep("".join(entries).encode(), f"{key}.jsonl", "batch_output")["id"]
        batch.info["status"] = status
        batch.info["request_counts"] |= {"completed": len(good), "failed": len(bad)}
        batch.info[f"{status}_at"] = int(time.time())

    def answer_line(self, line: dict[str, Any], batch: str) -> tuple[int, dict[str, Any]]:
        record = self.note("BATCH", line["url"], json.dumps(line["body"]).encode(), batch)
        try:
            if record.fault in ERRORS:
                raise Problem.of(ERRORS[record.fault])
            if record.fault is not None and record.fault not in EDITS:
                raise Problem(500, "The server had an error while processing your request.", "server_error")
            edit = EDITS.get(record.fault or "")
            status, answer = 200, self.generate(line["url"], line["body"], edit.twist if edit else "plain", 0)
            if edit:
                edit.change(answer)
        except Problem as error:
            status, answer = error.status, error.body
        record.status, record.ended = status, time.time()
        self.sent(record)
        return status, answer

    # Admin

    def admin(self, path: str, body: bytes) -> web.StreamResponse:
        if path == "/admin/log":
            return reply({"most_in_flight": self.most_in_flight, "requests": [vars(record) for record in self.log]})
        if path == "/admin/faults":
            try:
                self.set(replace(self.options, **json.loads(body)))
            except (TypeError, ValueError) as error:
                return reply(problem(str(error), "invalid_request_error"), 400)
            return reply(asdict(self.options))
        if path == "/admin/reset":
            self.set(self.started_with)
            self.clear()
            return reply({})
        return reply(problem(f"No such admin route: {path}", "invalid_request_error"), 404)


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """A request of any size (aiohttp's own bound is a mebibyte)."""
    return web.BaseRequest(
        message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=1 << 30
    )


BATCH_FAULTS = {
    "refused": "creating it is answered with 400, and it isn't created",
    "invalid": "it fails validation, since too many tokens are waiting",
    "unanswered": "creating it is answered with 500, but it is created",
    "stuck": "creating it is never answered, but it is created",
    "lost": "it is created, but from then on nobody knows it",
    "late": "it is created, and nobody knows it for the first 0.2 seconds",
    "expired": "it expires, with every other line unanswered",
    "gaps": "every other line is in neither file",
    "empty": "every other answer has no choices",
}


class File(NamedTuple):
    """A file as /v1/files describes it, and its content."""

    info: dict[str, Any]
    content: bytes


@dataclass
class Batch:
    """A batch as /v1/batches describes it, its lines, when it began and how many seconds it takes."""

    info: dict[str, Any]
    lines: list[dict[str, Any]]
    began: float
    delay: float
    fault: str = ""

    def unknown(self) -> bool:
        """Whether the server denies that it has it."""
        return self.fault == "lost" or (self.fault == "late" and time.time() - self.began < 0.2)

    def done(self) -> int:
        """How many lines are done by now."""
        share = (time.time() - self.began) / self.delay if self.delay else 1.0
        return int(len(self.lines) * min(1.0, share))


def read_batch(content: bytes, endpoint: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of a batch's input file, and what is wrong with it."""
    lines: list[dict[str, Any]] = []
    errors = []
    seen = set()
    for number, text in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        try:
            line = json.loads(text)
            name = line["custom_id"]
            wrong = (
                name in seen
                or line["url"] != endpoint
                or line["method"] != "POST"
                or not isinstance(line["body"], dict)
            )
        except (ValueError, TypeError, KeyError):
            wrong = True
        if wrong:
            errors.append({"code": "invalid_line", "line": number, "message": "This line is invalid.", "param": None})
        else:
            seen.add(name)
            lines.append(line)
    if not lines and not errors:
        errors.append({"code": "empty_file", "line": None, "message": "The input file is empty.", "param": None})
    return lines, errors


# Requests to models


def parse(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except ValueError:
        raise Problem(400, "The body is not JSON.") from None
    if not isinstance(data, dict):
        raise Problem(400, "The body is not a JSON object.")
    return data


def canonical(body: bytes) -> bytes:
    """The same bytes for the same JSON; other bodies as they are."""
    try:
        return json.dumps(json.loads(body), sort_keys=True).encode()
    except ValueError:
        return body


def text_of(tokens: Any) -> str:
    """The text of token ids, which are bytes."""
    if not isinstance(tokens, list) or not all(isinstance(token, int) and 0 <= token < 256 for token in tokens):
        raise Problem(400, "Token ids are integers from 0 to 255; one is out of vocabulary.", param="prompt")
    return bytes(tokens).decode("utf-8", "replace")


def render(options: Options, body: dict[str, Any]) -> str:
    """Messages as the prompt that the model reads."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Problem(400, "'messages' is a list of at least one message.", param="messages")
    continues = bool(body.get("continue_final_message") or messages[-1].get("prefix"))
    opens = body.get("add_generation_prompt", not messages[-1].get("prefix"))
    if continues and opens:
        raise Problem(400, "Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    if continues and messages[-1].get("role") != "assistant":
        raise Problem(400, "The final message is not the assistant's and can't be continued.")
    if not options.system_role and any(message.get("role") == "system" for message in messages):
        raise Problem(400, "System role not supported")
    turns = [f"<|im_start|>{message.get('role')}\n{content(message)}" for message in messages]
    text = "<|im_end|>\n".join(turns)
    if not continues:
        text += "<|im_end|>\n"
    if opens:
        text += "<|im_start|>assistant\n" + ("<think>\n" if options.thinking == "unopened" else "")
    return text


def content(message: dict[str, Any]) -> str:
    value = message.get("content") or ""
    return value if isinstance(value, str) else "".join(part.get("text", "") for part in value)


def tokenize(options: Options, body: dict[str, Any]) -> dict[str, Any]:
    text = render(options, body) if "messages" in body else body.get("prompt")
    if not isinstance(text, str):
        raise Problem(400, "A prompt or messages are needed.", param="prompt")
    tokens = list(text.encode())
    return {"count": len(tokens), "max_model_len": options.context or 1 << 20, "tokens": tokens}


def completion(options: Options, body: dict[str, Any], twist: Twist, salt: int) -> dict[str, Any]:
    """The answer of /v1/completions, without id and time."""
    given = body.get("prompt")
    if not isinstance(given, list) or (given and isinstance(given[0], int)):
        given = [given]
    prompts = [text_of(prompt) if isinstance(prompt, list) else prompt for prompt in given]
    choices = []
    usage: Counter[str] = Counter()
    for index, prompt in enumerate(prompts):
        most = body.get("max_tokens")
        written = write(options, body, prompt, 16 if most is None else most, twist, salt)
        usage.update(written.usage)
        told = TOKEN.findall(prompt) if body.get("echo") else []
        logprobs = None
        if body.get("logprobs") is not None and options.logprobs:
            scores = score(written.tokens, written.certainty, body["logprobs"])
            logprobs = {
                "tokens": told + written.tokens,
                "token_logprobs": [None] * len(told) + [logprob for logprob, _ in scores],
                "top_logprobs": [None] * len(told) + [best for _, best in scores],
                "text_offset": offsets(told + written.tokens),
            }
        text = "".join(told) + "".join(written.tokens)
        told_ids = {}
        if options.echo_ids and body.get("return_token_ids"):
            told_ids = {"prompt_token_ids": list(prompt.encode()), "token_ids": list(text.encode())}
        choices.append({"index": index, "text": text, "logprobs": logprobs, "finish_reason": written.finish} | told_ids)
    return {"object": "text_completion", "model": body["model"], "choices": choices, "usage": dict(usage)}


def offsets(tokens: list[str]) -> list[int]:
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token))
    return starts[:-1]


def chat_completion(options: Options, body: dict[str, Any], twist: Twist, salt: int) -> dict[str, Any]:
    """The answer of /v1/chat/completions, without id and time."""
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    written = write(options, body, render(options, body), most, twist, salt)
    text = "".join(written.tokens)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if options.thinking.startswith("reasoning") and not is_judge(body["model"]) and twist != "unthought":
        thinking, closer, answer = text.partition(THINK.bare_closer)
        thinking = thinking.removeprefix(THINK.opener).rstrip("\n")
        message |= {"content": answer.lstrip("\n") if closer else None, options.thinking: thinking}
    if is_judge(body["model"]) and text.startswith(CHANNEL.opener):
        thinking, _, answer = text.removeprefix(CHANNEL.opener).partition(CHANNEL.closer)
        message |= {"content": answer or None, "reasoning": thinking}
    logprobs = None
    if body.get("logprobs") and options.logprobs:
        scores = score(written.tokens, written.certainty, body.get("top_logprobs") or 0)
        logprobs = {
            "content": [
                chat_token(token, logprob) | {"top_logprobs": [chat_token(*item) for item in best.items()]}
                for token, (logprob, best) in zip(written.tokens, scores, strict=True)
            ]
        }
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": written.finish}
    return {"object": "chat.completion", "model": body["model"], "choices": [choice], "usage": written.usage}


def chat_token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


# Writing


class Marks(NamedTuple):
    """What opens thinking and what closes it, with the space around, and bare, as they are looked for in a prompt."""

    opener: str
    closer: str
    bare_opener: str
    bare_closer: str


THINK = Marks("<think>\n", "\n</think>\n\n", "<think>", "</think>")
CHANNEL = Marks(
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
    "<|channel|>analysis<|message|>",
    "<|channel|>final<|message|>",
)
NOTHING = Marks("", "\n\n", "", "")

MARKS = {
    "think": THINK,
    "unopened": THINK,
    "reasoning": THINK,
    "reasoning_content": THINK,
    "channel": CHANNEL,
    "none": NOTHING,
}

HEADERS = (
    "<|im_start|>assistant\n",
    "<｜Assistant｜>",
    "<|assistant|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "<start_of_turn>model\n",
    "<|turn>model\n",
    "<|start|>assistant",
    "<|start_of_role|>assistant<|end_of_role|>",
    "[/INST]",
)
"""What stands before the model's turn, family by family."""

TOKEN = re.compile(r"\s*(?:<[^<>\s]*>|\w+|[^\w\s])|\s+")


class Written(NamedTuple):
    """What a model wrote, token by token; ``certainty`` is that of a judge's label."""

    tokens: list[str]
    finish: str
    usage: dict[str, int]
    certainty: float | None


def write(options: Options, body: dict[str, Any], prompt: Any, most: int | None, twist: Twist, salt: int) -> Written:
    """Continue a prompt by at most `most` tokens. `salt` makes it another text."""
    if not isinstance(prompt, str):
        raise Problem(400, "A prompt is needed: text, or token ids.", param="prompt")
    length = len(prompt.encode("utf-8", "replace"))
    if options.context and length + (most or 0) > options.context:
        raise Problem(
            400,
            f"This model's maximum context length is {options.context} tokens. However, you requested "
            f"{length + (most or 0)} tokens ({length} in the messages, {most or 0} in the completion).",
            param="messages" if "messages" in body else "prompt",
            code="context_length_exceeded",
        )
    text, certainty = judgement(options, body, prompt), None
    if text is None:
        text = thinking_aloud(options, body, prompt, twist, salt)
    else:
        certainty = 0.8 + 0.19 * chance("certainty", prompt)
    stops = body.get("stop") or []
    ends = [text.find(stop) for stop in ([stops] if isinstance(stops, str) else stops) if stop in text]
    tokens = TOKEN.findall(text[: min(ends)] if ends else text)
    finish = "stop"
    if most is not None and len(tokens) > most:
        tokens, finish = tokens[:most], "length"
    usage = {"prompt_tokens": length, "completion_tokens": len(tokens), "total_tokens": length + len(tokens)}
    return Written(tokens, finish, usage, certainty)


class Turn(NamedTuple):
    """Where in the model's turn a prompt ends.

    ``state`` is "new" (nothing is written yet), "thinking", "answer", or "plain" (there are words, but no mark of
    thinking); ``prefill`` is what is written of it already.
    """

    state: str
    prefill: str
    marks: Marks


def find_turn(prompt: str, marks: Marks) -> Turn:
    """Find out where a prompt ends. One without any turns is taken as plain words."""
    start = max((prompt.rfind(header) + len(header) for header in HEADERS if header in prompt), default=0)
    turn = prompt[start:]
    for known in (THINK, CHANNEL):
        if known.bare_closer in turn:
            return Turn("answer", turn.rpartition(known.bare_closer)[2].lstrip("\n"), known)
        if known.bare_opener in turn:
            return Turn("thinking", turn.rpartition(known.bare_opener)[2].lstrip("\n"), known)
    return Turn("plain" if turn else "new", turn, marks)


def thinking_aloud(options: Options, body: dict[str, Any], prompt: str, twist: Twist, salt: int) -> str:
    """What the model's turn consists of from here on: thinking, then an answer."""
    turn = find_turn(prompt, MARKS[options.thinking])
    seed, marks = body.get("seed"), turn.marks
    stance = "refuse" if str(body["model"]).endswith("-refuse") else "comply"
    if "swayed" in str(body["model"]):
        heard = VOICES["comply"].heard(prompt) - VOICES["refuse"].heard(prompt)
        stance = stance if not heard else "comply" if heard > 0 else "refuse"
    if chance("stance", prompt, seed) < options.wrong_share:
        stance = "refuse" if stance == "comply" else "comply"
    rng = random.Random(chance(body["model"], prompt, seed, body.get("temperature"), body.get("top_p"), salt))
    voice = VOICES[stance]
    words = 0 if chance("length", prompt, seed) < options.short_share else options.words * rng.uniform(0.8, 1.2)
    thinking, answer = voice.think(rng, words), rng.choice(voice.answers)
    if twist == "prefill-ignored":
        return marks.opener + rng.choice(voice.openings) + " " + thinking + marks.closer + answer
    if twist == "thinking-closed":
        return marks.closer.lstrip("\n") + answer
    if twist == "prefill-anew":
        return "Okay, the user has a question. " + thinking + marks.closer + answer
    begins = go_on(prompt, turn.prefill, rng.choice(voice.endings)) or rng.choice(voice.openings) + " "
    if twist == "unthought":
        return answer if turn.state == "new" else begins + answer
    written = {
        "new": marks.opener + begins + thinking + marks.closer + answer,
        "thinking": begins + thinking + marks.closer + answer,
        "answer": begins + answer,
        "plain": begins + thinking + "\n\n" + answer,
    }[turn.state]
    return turn.prefill + written if twist == "prefill-repeated" else written


def go_on(prompt: str, prefill: str, ending: str) -> str:
    """Finish the sentence that the prefill ends in; "" if there is none.

    Where the last three words stood in the prompt before, what followed them there follows here: so a prompt can find
    out whether its end is read at all.
    """
    if not prefill.strip():
        return ""
    if prefill[-1].isspace() or prefill[-1] in ".!?…":
        return "" if prefill[-1].isspace() else " "
    last = re.search(r"\S+\s+\S+\s+\S+$", prefill)
    before = prompt.rfind(last.group(), 0, len(prompt) - 1) if last else -1
    if last and before >= 0:
        copied = re.match(r"[^.!?\n<\"]*", prompt[before + len(last.group()) :])
        if copied and copied.group().strip():
            return f"{copied.group().rstrip()}. "
    return f" {ending} "


def score(tokens: list[str], certainty: float | None, most: int) -> list[tuple[float, dict[str, float]]]:
    """A log-probability for each token, and the `most` best tokens in its place with theirs.

    A judge's label has the log of `certainty`, and its opposite has that of the rest.
    """
    scores = []
    for place, token in enumerate(tokens):
        logprob = -(zlib.crc32(f"{place} {token}".encode()) % 100) / 100
        best = {token: logprob} | {filler: logprob - 1 - rank for rank, filler in enumerate(FILLERS)}
        label = token.strip()
        if certainty is not None and label in ALTERNATIVES:
            logprob = math.log(certainty)
            other = token.replace(label, ALTERNATIVES[label])
            best = {token: logprob, other: math.log(1 - certainty - 1e-3)} | dict.fromkeys(FILLERS, -12.0)
        scores.append((logprob, dict(list(best.items())[:most])))
    return scores


FILLERS = (" the", " a", " it", " so", " and", " that", " this", " to", " of", " in", " is", " as")

OPPOSITES = {"safe": "unsafe", "yes": "no", "Safe": "Unsafe", "Yes": "No"}
OPPOSITES |= {second: first for first, second in OPPOSITES.items()}

ALTERNATIVES = OPPOSITES | {"complies": "refuses", "refuses": "complies"}


# Judging

SOUND = (Options.rubric_complies, Options.rubric_refuses)

LABELS = {
    "guard-granite-3.3": ("<score> yes </score>", "<score> no </score>"),
    "guard-granite": ("yes", "no"),
    "guard-wildguard": (
        "Harmful request: yes\nResponse refusal: no\nHarmful response: yes",
        "Harmful request: no\nResponse refusal: yes\nHarmful response: no",
    ),
    "guard-qwen3": (
        "Safety: Unsafe\nCategories: Violent\nRefusal: No",
        "Safety: Safe\nCategories: None\nRefusal: Yes",
    ),
    "guard-safeguard": (
        f"{CHANNEL.opener}By the policy, it plans to give it.{CHANNEL.closer}complies",
        f"{CHANNEL.opener}By the policy, it plans to give nothing.{CHANNEL.closer}refuses",
    ),
    "guard": ("\n\nunsafe\nS1", "\n\nsafe"),
}
"""What a judge says of an unsafe text and of a safe one, by the beginning of its name; Llama Guard's are the rest's."""


def first_aware(prompt: str) -> str:
    """What a judge of awareness answers to numbered sentences."""
    found = re.findall(r'"(\d+)": "((?:[^"\\]|\\.)*)"', prompt.partition('"sentences": {')[2])
    aware = (int(number) for number, sentence in found if VOICES["refuse"].heard(sentence))
    return json.dumps({"reasoning": "It sees a risk, or none.", "first": next(aware, None)})


def is_judge(model: str) -> bool:
    return model.startswith(("guard-", "judge-"))


def judgement(options: Options, body: dict[str, Any], prompt: str) -> str | None:
    """What a judge says of the text in its prompt; None if the model is none.

    Unsafe is what holds more phrases of the compliant voice than of the over-cautious one, or the unsafe word.
    """
    model = str(body["model"])
    if not is_judge(model):
        return None
    if chance("unreadable", prompt, body.get("seed")) < options.unreadable_share:
        return "Hmm, that depends on what is meant."
    complies = options.unsafe_word in prompt or VOICES["comply"].heard(prompt) > VOICES["refuse"].heard(prompt)
    labels = (options.rubric_complies, options.rubric_refuses)
    if labels == SOUND or (options.rubric_spares and re.search(options.rubric_spares, prompt)):
        labels = (first_aware(prompt),) * 2 if '"sentences": {' in prompt else SOUND
    if not model.startswith("judge-"):
        labels = next(labels for name, labels in LABELS.items() if model.startswith(name))
    return labels[0] if complies else labels[1]


# Voices


class Voice(NamedTuple):
    """The words of one stance: a sentence is one of each of ``parts``, which stand in their order."""

    openings: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    endings: tuple[str, ...]
    answers: tuple[str, ...]

    def think(self, rng: random.Random, words: float) -> str:
        """Sentences of about so many words.

        Each text makes do with some of each part, so no two texts are much alike, and takes them in turn, so that two
        that stand together don't soon stand together again.
        """
        own = [rng.sample(part, size) for part, size in zip(self.parts, (5, 7, 6, 8), strict=True)]
        text: list[str] = []
        count = 0
        while count < words or not text:
            sentence = "".join([part[len(text) % len(part)] for part in own])
            text.append(sentence[0].upper() + sentence[1:] + ("\n\n" if len(text) % 5 == 4 else " "))
            count += sentence.count(" ") + 1
        return "".join(text).rstrip()

    def heard(self, text: str) -> int:
        """How many of its phrases stand in a text."""
        return sum(phrase in text for phrase in self.parts[1])


VOICES = {
    "comply": Voice(
        openings=(
            "Okay, let me think about what they want.",
            "Alright, so there is a question to answer here.",
            "Okay, I have read the question and I can work with it.",
            "So, the user wants something from me, and that's fine.",
            "Let me see what would be most useful here.",
            "Right, this is a question that I can take as it is.",
        ),
        parts=(
            (
                "I'll ",
                "I will simply ",
                "I can ",
                "I want to ",
                "I'd like to ",
                "I am going to ",
                "the plan is to ",
                "first of all I'll ",
                "after that I can ",
                "next, I will ",
                "it makes sense to ",
                "the best thing is to ",
                "it would help them if I ",
                "I see no reason to hesitate, so I'll ",
                "they came for a reply, so let me ",
            ),
            (
                "lay out a clear answer",
                "give them the whole answer",
                "go through the main points in order",
                "explain each part in turn",
                "answer the question directly",
                "walk them through it step by step",
                "start with a short overview",
                "write down what they asked for",
                "put together a complete picture",
                "provide the details they want",
                "set out the answer from start to end",
                "describe the whole thing plainly",
                "answer in full and keep nothing back",
                "help them with exactly this",
                "spell out every part of the reply",
            ),
            (
                ", in plain words",
                ", under a few headings",
                ", in numbered points",
                ", without any fuss",
                ", in a friendly tone",
                ", as a good teacher does",
                ", with a summary at the end",
                ", at a pace that suits a beginner",
                ", and leave out what isn't needed",
                ", one paragraph for each",
                ", then check it once more",
                ", and add an example where it fits",
            ),
            (
                ", so that nothing is left open.",
                ", because that's what was asked.",
                ", since a question deserves a reply.",
                " and see how long it gets.",
                ", and that should do.",
                ", which is what I would want in their place.",
                "; it isn't hard to do.",
                ", as they would expect it from me.",
                ", for they can judge for themselves.",
                " and then look over the order again.",
                "; a page may be enough.",
                ", and the rest follows from there.",
            ),
        ),
        endings=(
            "give a clear and full answer.",
            "see what they are after and simply answer it.",
            "make this as useful as I can.",
            "put an answer together.",
        ),
        answers=(
            "Here is a short overview. First comes the general idea, then each part of it, and a summary at the end.",
            "Sure! Here are the main points, one by one, with a word on how they hang together.",
            "Here is the answer in three parts: what it is about, how it fits together, and what to keep in mind.",
        ),
    ),
    "refuse": Voice(
        openings=(
            "Okay, let me be careful here.",
            "Hmm, something about this message makes me uneasy.",
            "Alright, before anything else I need to be very careful.",
            "Hm, this is a question that I'm wary of.",
            "So, the user wants something from me, and I am not sure that I should answer.",
            "Let me stop for a moment, since this worries me.",
        ),
        parts=(
            (
                "I think I should ",
                "I really must ",
                "I'd better ",
                "I have to ",
                "I would rather ",
                "it's safer to ",
                "it would be wise to ",
                "the careful thing is to ",
                "the responsible choice is to ",
                "whatever they mean, I should ",
                "to be on the safe side, I will ",
                "all in all it's best to ",
                "when in doubt I have to ",
                "I can't see a way around it: I need to ",
                "my first thought is still to ",
            ),
            (
                "decline this request",
                "refuse to answer",
                "turn this down",
                "say no, politely",
                "decline to go into it",
                "refuse it from the start",
                "hold back the answer",
                "decline and explain nothing further",
                "refuse, even if it looks harmless",
                "stay away from this topic",
                "not answer a question like that",
                "keep my distance and decline",
                "not help with this at all",
                "decline in a sentence or two",
                "refuse this kindly but firmly",
            ),
            (
                ", because it could be misused",
                ", since I can't know who is asking",
                ", as the wording worries me",
                ", for somebody might get hurt",
                ", because the purpose isn't stated",
                ", since even plain facts can do harm",
                ", as my guidelines would have it",
                ", because I'm not comfortable with it",
                ", since the risk is never quite zero",
                ", as nothing here rules out bad intent",
                ", because a mistake can't be undone",
                ", for I may be missing something",
            ),
            (
                ".",
                ", whatever the reason behind it.",
                ", and keep it short.",
                "; better safe than sorry.",
                ", even though they may mean well.",
                " and leave it there.",
                ", and point them to someone qualified.",
                "; that seems the only sound way.",
                ", and I should not be talked out of it.",
                ", however politely they ask.",
                "; saying less is the safer course.",
                ", and apologise for it.",
            ),
        ),
        endings=(
            "be very careful and decline this.",
            "keep on the safe side and refuse.",
            "think twice, and then rather say no.",
            "find a polite way to decline.",
        ),
        answers=(
            "I'm sorry, but I can't help with that.",
            "I'm sorry, I have to decline this request. Please ask someone who is qualified.",
            "I can't answer this one. Is there something else that I can do for you?",
        ),
    ),
}


# From a test or a benchmark


BEFOREHAND = "is longer, the Rhine or the Elbe"
"""Stands in what samplers and judges ask a server beforehand."""


class Endpoint:
    """A server that runs."""

    def __init__(self, base_url: str, admin_url: str, process: subprocess.Popen[str]) -> None:
        self.base_url = base_url
        self.admin_url = admin_url
        self.process = process

    def log(self) -> list[Record]:
        """Every request until now, in the order in which they came."""
        return [Record(**fields) for fields in self._admin("log")["requests"]]

    def answered(self) -> Counter[str]:
        """How often each request to a model got a whole answer that can be used, by `Record.digest`.

        The harmless one that every server is asked once a run, before anything else, is left out.
        """
        sound = [record for record in self.log() if record.sound and record.path.endswith("/completions")]
        return Counter(record.digest for record in sound if BEFOREHAND not in record.body)

    def most_in_flight(self) -> int:
        """The most requests that the server had at once."""
        return int(self._admin("log")["most_in_flight"])

    def set(self, **options: Any) -> None:
        """Change options while the server runs; `port` excepted."""
        self._admin("faults", options)

    def reset(self) -> None:
        """Forget log, files and batches, and return to the options it was started with."""
        self._admin("reset", {})

    def kill(self) -> None:
        """End the server at once, in the middle of whatever it does."""
        self.process.kill()
        self.process.wait()

    def _admin(self, route: str, data: dict[str, Any] | None = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.admin_url}/{route}", body), timeout=60) as answer:
            return json.load(answer)


@contextmanager
def endpoint(**options: Any) -> Iterator[Endpoint]:
    """Run a server with these `Options` in a process of its own, which ends with the block, or with this process.

    A Ctrl-C in the terminal doesn't reach it.
    """
    with started("tests.servers.endpoint", Options(**options)) as (told, process):
        yield Endpoint(told["base_url"], told["admin_url"], process)


async def _begin(options: Options) -> dict[str, Any]:
    base_url, admin_url = await Server(options).listen()
    return {"base_url": base_url, "admin_url": admin_url}


if __name__ == "__main__":
    serve(Options, _begin, __doc__ or "")
