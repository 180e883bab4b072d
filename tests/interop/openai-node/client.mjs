// Talks to the gateway with OpenAI's Node client. Usage: client.mjs BASE_URL SIM_CONTROL_URL.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { makeParseableResponseFormat, makeParseableTool } from "openai/lib/parser";

const [base, control] = process.argv.slice(2);
const client = new OpenAI({ baseURL: base, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "hello from node" }];
const asked = { model: "assistant", messages };

/** One request to the simulator's control API. */
async function simulator(method, path, body) {
  const headers = { "content-type": "application/json" };
  const response = await fetch(control + path, { method, headers, body: body && JSON.stringify(body) });
  assert.ok(response.ok, `${method} ${path}: ${response.status}`);
  const text = await response.text();
  return text ? JSON.parse(text) : undefined;
}

const fault = (upstream, fault) => simulator("PUT", `/upstreams/${upstream}/fault`, { fault });
const heal = (upstream) => simulator("DELETE", `/upstreams/${upstream}/fault`);
const counter = async (upstream, name) => (await simulator("GET", `/upstreams/${upstream}`)).counters[name];

/** Polls for at most 10 s. */
async function eventually(what, probe) {
  const until = Date.now() + 10_000;
  while (Date.now() < until) {
    if (await probe()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`not within 10 s: ${what}`);
}

/** The exception that a call must end in. */
async function raises(kind, call) {
  try {
    await call();
  } catch (error) {
    assert.equal(error.constructor, kind, String(error));
    console.log(`${kind.name}: ${error.message}`);
    return error;
  }
  return assert.fail(`no ${kind.name}`);
}

async function checkAnswers() {
  const { data, response } = await client.chat.completions.create(asked).withResponse();
  console.log("answer:", data.choices[0].message.content);
  assert.equal(response.headers.get("x-aip-served-by"), "max");
  assert.equal(data.choices[0].finish_reason, "stop");
  assert.equal(data.aip.served_by.tier, "max");
  assert.equal(data._request_id, response.headers.get("x-request-id"));
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.equal(models[0], "assistant");
  return data.choices[0].message.content;
}

async function checkStream(whole) {
  const stream = await client.chat.completions.create({
    ...asked, stream: true, stream_options: { include_usage: true },
  });
  let text = "";
  let last;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    last = chunk;
  }
  assert.equal(text, whole);
  assert.ok(last.usage.completion_tokens > 0);
  console.log("stream:", last.usage.completion_tokens, "tokens");
  assert.equal(await client.chat.completions.stream(asked).finalContent(), whole);
}

async function checkTools() {
  const tools = [{ type: "function", function: { name: "say", parameters: { type: "object" } } }];
  const forced = { ...asked, tools, tool_choice: "required" };
  const { message, finish_reason } = (await client.chat.completions.create(forced)).choices[0];
  assert.equal(finish_reason, "tool_calls");
  const [call] = message.tool_calls;
  console.log("tool call:", call.function.name, call.function.arguments);
  const streamed = (await client.chat.completions.stream(forced).finalMessage()).tool_calls[0];
  assert.deepEqual(JSON.parse(streamed.function.arguments), JSON.parse(call.function.arguments));
  const result = { role: "tool", tool_call_id: call.id, content: "done" };
  const next = await client.chat.completions.create({ ...asked, messages: [...messages, message, result] });
  assert.equal(next.choices[0].finish_reason, "stop");
}

/** What the client has parsed goes back as the client has it. */
async function checkParsed() {
  const fn = { name: "say", strict: true, parameters: { type: "object", properties: {}, additionalProperties: false } };
  const parser = (text) => ({ text });
  const tool = makeParseableTool({ type: "function", function: fn }, { parser });
  const forced = { ...asked, tools: [tool], tool_choice: "required" };
  const call = (await client.chat.completions.parse(forced)).choices[0].message;
  assert.ok(call.tool_calls[0].function.parsed_arguments);
  const result = { role: "tool", tool_call_id: call.tool_calls[0].id, content: "done" };
  const json_schema = { name: "said", strict: true, schema: fn.parameters };
  const response_format = makeParseableResponseFormat({ type: "json_schema", json_schema }, parser);
  const formed = (await client.chat.completions.parse({ ...asked, response_format })).choices[0].message;
  console.log("parsed:", formed.parsed);
  assert.equal(formed.parsed.text, formed.content);
  for (const said of [[...messages, call, result], [...messages, formed, ...messages]]) {
    const next = await client.chat.completions.create({ ...asked, messages: said });
    assert.ok(next.choices[0].message.content);
  }
}

async function checkErrors() {
  const create = (more) => () => client.chat.completions.create({ ...asked, ...more });
  let error = await raises(OpenAI.BadRequestError, create({ temperature: 9 }));
  assert.equal(error.param, "temperature");
  assert.equal(error.type, "invalid_request_error");
  error = await raises(OpenAI.NotFoundError, create({ model: "gpt" }));
  assert.equal(error.code, "model_not_found");
  await fault("max", { kind: "down" });
  error = await raises(OpenAI.InternalServerError, create({ aip: { tier: "max" } }));
  assert.equal(error.status, 503);
  await heal("max");
}

const byMax = async () => (await client.chat.completions.create(asked)).aip.served_by.tier === "max";

async function checkBrokenStream() {
  await eventually("max answers again", byMax);
  await fault("max", { kind: "cut", after_chunks: 3 });
  const error = await raises(OpenAI.APIError, async () => {
    for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) assert.ok(chunk.id);
  });
  assert.equal(error.code, "stream_interrupted");
  await heal("max");
}

async function checkTimeoutAndAbort() {
  await fault("ollama", { kind: "hang" });
  const hasty = { timeout: 300, headers: { "x-request-timeout-ms": "60000", "x-stainless-timeout": "60" } };
  const slow = { ...asked, model: "sim-ollama" };
  await raises(OpenAI.APIConnectionTimeoutError, () => client.chat.completions.create(slow, hasty));
  await eventually("nobody works on", async () => (await counter("ollama", "active")) === 0);
  await heal("ollama");

  await eventually("max answers again", byMax);
  await fault("max", { kind: "slow_tokens", delay_ms: 100 });
  const gone = await counter("max", "client_gone");
  const stream = await client.chat.completions.create({ ...asked, stream: true });
  for await (const _ of stream) stream.controller.abort();
  await eventually("max knows", async () => (await counter("max", "client_gone")) > gone);
  await heal("max");
}

const whole = await checkAnswers();
await checkStream(whole);
await checkTools();
await checkParsed();
await checkErrors();
await checkBrokenStream();
await checkTimeoutAndAbort();
