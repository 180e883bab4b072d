// What runs in the page: Google's gRPC-Web client, with messages that protobufjs reads from the protos.
import { GrpcWebClientBase, MethodDescriptor } from "grpc-web";
import protobuf from "protobufjs";
import protos from "./protos.json";

const root = protobuf.Root.fromJSON(protos);
const SERVICE = "aiplatform.inference.v1.InferenceService";

/** A method, by its entry in the protos. */
function method(name) {
  const { requestType, responseType, responseStream } = root.lookupService(SERVICE).methods[name];
  const [request, response] = [requestType, responseType].map((type) =>
    root.lookupType(type.includes(".") ? type : `aiplatform.inference.v1.${type}`),
  );
  return new MethodDescriptor(
    `/${SERVICE}/${name}`, responseStream ? "server_streaming" : "unary", Object, Object,
    (message) => request.encode(request.fromObject(message)).finish(),
    (bytes) => response.toObject(response.decode(bytes), { enums: String, oneofs: true, longs: Number }),
  );
}

const chat = (text, more = {}) => ({ messages: [{ role: "ROLE_USER", content: [{ text }] }], ...more });
const failure = (error) => ({ code: error.code, message: error.message });

/** A unary call: { answer } or { error }. */
window.unary = (host, format, text, more) => {
  const client = new GrpcWebClientBase({ format });
  return client
    .unaryCall(`${host}/${SERVICE}/Chat`, chat(text, more), {}, method("Chat"))
    .then((answer) => ({ answer }), (error) => ({ error: failure(error) }));
};

/** A stream, read to its end or cancelled after so many events: its events, and the error or status that ended it. */
window.stream = (host, text, cancelAfter = Infinity) =>
  new Promise((resolve) => {
    const client = new GrpcWebClientBase({ format: "text" });
    const events = [];
    const call = client.serverStreaming(
      `${host}/${SERVICE}/StreamChat`, { chat: chat(text) }, {}, method("StreamChat"),
    );
    call.on("data", (message) => {
      events.push(message);
      if (events.length === cancelAfter) {
        call.cancel();
        resolve({ events });
      }
    });
    call.on("error", (error) => resolve({ events, error: failure(error) }));
    call.on("end", () => resolve({ events }));
  });

/** OpenAI's protocol, by the browser's own fetch. */
window.completion = async (host, body) => {
  const response = await fetch(`${host}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer none" },
    body: JSON.stringify(body),
  }).catch((error) => ({ blocked: String(error) }));
  if (response.blocked) return response;
  return { status: response.status, servedBy: response.headers.get("x-aip-served-by"), text: await response.text() };
};

window.loaded = true;
