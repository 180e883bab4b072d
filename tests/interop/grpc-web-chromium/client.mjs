// Drives headless Chromium. Usage: client.mjs CHROMIUM GATEWAY_URL SIM_CONTROL_URL PAGE_PORT BUNDLE.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import puppeteer from "puppeteer-core";

const [executablePath, gateway, control, pagePort, bundle] = process.argv.slice(2);
const script = await readFile(bundle);
const server = createServer((request, response) => {
  const isScript = request.url === "/page.js";
  response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
  response.end(isScript ? script : "<!doctype html><script src=page.js></script>");
});
await new Promise((resolve) => server.listen(Number(pagePort), "127.0.0.1", resolve));

const fault = (kind) =>
  fetch(`${control}/upstreams/max/fault`, {
    method: "PUT", headers: { "content-type": "application/json" }, body: JSON.stringify({ fault: kind }),
  });
const counter = async (name) => (await (await fetch(`${control}/upstreams/max`)).json()).counters[name];

/** Polls for at most 10 s. */
async function eventually(what, probe) {
  const until = Date.now() + 10_000;
  while (Date.now() < until) {
    if (await probe()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`not within 10 s: ${what}`);
}

async function checkUnary(page) {
  for (const format of ["binary", "text"]) {
    const { answer, error } = await page.evaluate((...all) => window.unary(...all), gateway, format, "hello from chromium");
    assert.equal(error, undefined, JSON.stringify(error));
    console.log(`Chat (${format}):`, answer.message.content[0].text);
    assert.equal(answer.servedBy.tier, "max");
    const refused = await page.evaluate((...all) => window.unary(...all), gateway, format, "x", { model: "gpt" });
    console.log(`error (${format}):`, refused.error);
    assert.equal(refused.error.code, 5);
  }
}

async function checkStream(page) {
  const { events, error } = await page.evaluate((...all) => window.stream(...all), gateway, "stream to chromium");
  assert.equal(error, undefined, JSON.stringify(error));
  const text = events.map((event) => event.delta?.text ?? "").join("");
  console.log("StreamChat:", events.length, "events |", text);
  assert.ok(events[0].start && events.at(-1).end && events.length > 5 && text);

  const gone = await counter("client_gone");
  await fault({ kind: "slow_tokens", delay_ms: 100 });
  await page.evaluate((...all) => window.stream(...all), gateway, "to be abandoned", 3);
  await eventually("max knows that the page has gone", async () => (await counter("client_gone")) > gone);
  await fetch(`${control}/upstreams/max/fault`, { method: "DELETE" });
}

async function checkCompletion(page) {
  const body = { messages: [{ role: "user", content: "hello from a page" }] };
  const answer = await page.evaluate((...all) => window.completion(...all), gateway, body);
  assert.equal(answer.status, 200, JSON.stringify(answer));
  assert.equal(answer.servedBy, "max");
  const stream = await page.evaluate((...all) => window.completion(...all), gateway, { ...body, stream: true });
  assert.ok(stream.text.endsWith("data: [DONE]\n\n"), stream.text);
  console.log("fetch: whole and streamed, served by", answer.servedBy);
}

/** A page that is not configured is kept out by the browser. */
async function checkStranger(page) {
  await page.goto(`http://localhost:${pagePort}/`);
  await page.waitForFunction("window.loaded");
  const { error } = await page.evaluate((...all) => window.unary(...all), gateway, "binary", "x");
  assert.ok(error, "a page of another origin is served");
  const { blocked } = await page.evaluate((...all) => window.completion(...all), gateway, { messages: [] });
  assert.ok(blocked, "a page of another origin is served");
  console.log("a page of another origin:", error, blocked);
}

// One process of the browser's own making, in a container without user namespaces.
const browser = await puppeteer.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
try {
  console.log(await browser.version());
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.log("in the page:", error.message));
  await page.goto(`http://127.0.0.1:${pagePort}/`);
  await page.waitForFunction("window.loaded");
  await checkUnary(page);
  await checkStream(page);
  await checkCompletion(page);
  await checkStranger(page);
} finally {
  await browser.close();
  server.close();
}
