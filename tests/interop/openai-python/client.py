"""Talks to the gateway with OpenAI's Python client. Usage: client.py BASE_URL SIM_CONTROL_URL."""
import json
import sys
import time
import urllib.request

import openai
import pydantic

BASE, CONTROL = sys.argv[1:3]
ASK = [{"role": "user", "content": "hello from python"}]
TOOL = {"type": "function", "function": {"name": "say", "parameters": {"type": "object"}}}


def control(method, path, body=None):
    """One request to the simulator's control API."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(CONTROL + path, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=5) as response:
        text = response.read()
    return json.loads(text) if text else None


def fault(upstream, kind, **more):
    """Sets a fault for all requests to an upstream."""
    control("PUT", f"/upstreams/{upstream}/fault", {"fault": {"kind": kind, **more}})


def heal(*upstreams):
    """Takes faults away."""
    for upstream in upstreams:
        control("DELETE", f"/upstreams/{upstream}/fault")


def eventually(what, probe):
    """Polls for at most 10 s."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if probe():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within 10 s: {what}")


def raises(kind, call):
    """The exception that a call must end in."""
    try:
        call()
    except kind as error:
        assert type(error) is kind, repr(error)  # pylint: disable=unidiomatic-typecheck
        print(f"{kind.__name__}: {error}")
        return error
    raise AssertionError(f"no {kind.__name__}")


def check_answers(client):
    """A whole answer, by the typed object and by its headers."""
    raw = client.chat.completions.with_raw_response.create(model="assistant", messages=ASK)
    assert raw.headers["x-aip-served-by"] == "max" and raw.headers["x-aip-degraded"] == "false", raw.headers
    answer = raw.parse()
    print("answer:", answer.choices[0].message.content)
    assert answer.object == "chat.completion" and answer.choices[0].finish_reason == "stop", answer
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0, answer
    assert answer.aip["served_by"]["tier"] == "max" and raw.request_id == raw.headers["x-request-id"]
    names = [model.id for model in client.models.list()]
    print("models:", names)
    assert names[0] == "assistant" and client.models.retrieve("sim-max").id == "sim-max"
    return answer.choices[0].message.content


def check_stream(client, whole):
    """A stream says the same, counts tokens, and names who answered."""
    stream = client.chat.completions.create(
        model="assistant", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    print("stream:", len(chunks), "chunks")
    assert text == whole and len(chunks) > 5, text
    assert chunks[-1].usage.completion_tokens > 0 and not chunks[-1].choices, chunks[-1]
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-2].aip["served_by"]["tier"] == "max"
    with client.chat.completions.stream(model="assistant", messages=ASK) as events:
        assert events.get_final_completion().choices[0].message.content == whole


def check_tools(client):
    """A tool call comes whole and in pieces, and its result goes back."""
    asked = {"model": "assistant", "messages": ASK, "tools": [TOOL], "tool_choice": "required"}
    choice = client.chat.completions.create(**asked).choices[0]
    call = choice.message.tool_calls[0]
    print("tool call:", call.function.name, call.function.arguments)
    assert choice.finish_reason == "tool_calls" and call.function.name == "say" and choice.message.content is None
    with client.chat.completions.stream(**asked) as events:
        streamed = events.get_final_completion().choices[0].message.tool_calls[0]
    assert json.loads(streamed.function.arguments) == json.loads(call.function.arguments), streamed
    result = {"role": "tool", "tool_call_id": call.id, "content": "done"}
    messages = ASK + [choice.message.model_dump(), result]
    assert client.chat.completions.create(model="assistant", messages=messages).choices[0].finish_reason == "stop"


class Said(pydantic.BaseModel):
    """A form whose reader takes any answer: the simulator's are no JSON."""

    text: str

    @classmethod
    def model_validate_json(cls, json_data, **_):  # pylint: disable=arguments-differ
        return cls(text=json_data)


def check_parsed(client):
    """What the client has parsed goes back as the client has it."""
    tool = openai.pydantic_function_tool(Said, name="say")
    forced = {"model": "assistant", "messages": ASK, "tools": [tool], "tool_choice": "required"}
    call = client.chat.completions.parse(**forced).choices[0].message
    assert "parsed_arguments" in call.tool_calls[0].function.model_dump(), call
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "done"}
    formed = client.chat.completions.parse(model="assistant", messages=ASK, response_format=Said).choices[0].message
    print("parsed:", formed.parsed)
    assert formed.parsed.text == formed.content, formed
    for messages in (ASK + [call, result], ASK + [formed] + ASK):
        assert client.chat.completions.create(model="assistant", messages=messages).choices[0].message.content


def check_errors(client):
    """Errors are the client's own exceptions."""

    def ask(**more):
        return lambda: client.chat.completions.create(**({"model": "assistant", "messages": ASK} | more))

    error = raises(openai.BadRequestError, ask(temperature=9))
    assert error.param == "temperature" and error.type == "invalid_request_error", error.body
    assert raises(openai.BadRequestError, ask(n=2)).param == "n"
    error = raises(openai.NotFoundError, ask(model="gpt"))
    assert error.code == "model_not_found" and error.param == "model", error.body
    assert raises(openai.NotFoundError, lambda: client.embeddings.create(model="m", input="x")).code == "path_not_found"
    long = [{"role": "user", "content": "x" * (10 << 20)}]
    assert raises(openai.APIStatusError, ask(messages=long)).status_code == 413
    for upstream in ("max", "ollama"):
        fault(upstream, "down")
    wanted = {"aip": {"allow_degraded": False, "cache": "bypass"}}
    error = raises(openai.InternalServerError, ask(extra_body=wanted))
    assert error.status_code == 503 and error.code == "all_tiers_unavailable", error.body
    degraded = client.chat.completions.create(
        model="assistant", messages=[{"role": "user", "content": "something new"}]
    )
    assert degraded.aip["served_by"]["degraded"] is True and degraded.choices[0].message.content, degraded
    heal("max", "ollama")


def served_by_max(client):
    """Whether the first tier answers again."""
    return client.chat.completions.create(model="assistant", messages=ASK).aip["served_by"]["tier"] == "max"


def check_broken_stream(client):
    """A stream that breaks off is an exception and not an end."""
    eventually("max answers again", lambda: served_by_max(client))
    fault("max", "cut", after_chunks=3)
    stream = client.chat.completions.create(model="assistant", messages=ASK, stream=True)
    error = raises(openai.APIError, lambda: list(stream))
    assert error.code == "stream_interrupted", error.body
    heal("max")


def check_timeouts(client):
    """Who says how long it waits is answered in that time; who does not wait is not worked for."""
    eventually("max answers again", lambda: served_by_max(client))
    for upstream in ("max", "ollama"):
        fault(upstream, "hang")
    new = [{"role": "user", "content": "in time, please"}]
    began = time.monotonic()
    answer = client.with_options(timeout=1.0).chat.completions.create(model="assistant", messages=new)
    print(f"degraded within the client's second: {time.monotonic() - began:.2f} s")
    assert answer.aip["served_by"]["degraded"] is True, answer
    patient = {"x-request-timeout-ms": "60000", "x-stainless-read-timeout": "60"}
    hasty = client.with_options(timeout=0.3)
    raises(
        openai.APITimeoutError,
        lambda: hasty.chat.completions.create(model="sim-ollama", messages=ASK, extra_headers=patient),
    )
    eventually("nobody works on", lambda: control("GET", "/upstreams/ollama")["counters"]["active"] == 0)
    heal("max", "ollama")


def check_abort(client):
    """A stream that is closed in its middle stops the upstream."""
    eventually("max answers again", lambda: served_by_max(client))
    fault("max", "slow_tokens", delay_ms=100)
    gone = control("GET", "/upstreams/max")["counters"]["client_gone"]
    stream = client.chat.completions.create(model="assistant", messages=ASK, stream=True)
    assert next(iter(stream)).choices[0].delta.role == "assistant"
    began = time.monotonic()
    stream.close()
    eventually("max knows", lambda: control("GET", "/upstreams/max")["counters"]["client_gone"] > gone)
    print(f"the upstream stopped after {time.monotonic() - began:.2f} s")
    heal("max")


def main():
    """All checks, with a client that knows nothing but the base URL."""
    print("openai", openai.__version__)
    client = openai.OpenAI(base_url=BASE, api_key="none", max_retries=0)
    whole = check_answers(client)
    check_stream(client, whole)
    check_tools(client)
    check_parsed(client)
    check_errors(client)
    check_broken_stream(client)
    check_timeouts(client)
    check_abort(client)


main()
