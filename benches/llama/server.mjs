// Serves one GGUF file over HTTP with llama.cpp, for benches on machines without llama-server.
//
//   node server.mjs FILE --port P [--host H] [--parallel N] [--context N] [--threads N]
//
// Comes in: POST /v1/chat/completions, of which messages, max_tokens and stream are read. Goes out:
// the most probable tokens, one chunk a token, and the usage at the end. llama.cpp computes all
// requests that run in one batch, as its own server does; more than N wait their turn.

import {createServer} from "node:http";
import {parseArgs} from "node:util";
import {Template} from "@huggingface/jinja";
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

const {values: flags, positionals: [file]} = parseArgs({
    allowPositionals: true,
    options: {
        host: {type: "string", default: "127.0.0.1"},
        port: {type: "string"},
        parallel: {type: "string", default: "1"},
        context: {type: "string", default: "8192"},
        threads: {type: "string", default: "2"},
    },
});
const parallel = Number(flags.parallel);
const threads = Number(flags.threads);

const llama = await getLlama({
    gpu: false, build: "never", skipDownload: true, maxThreads: threads,
    logLevel: LlamaLogLevel.error,
});
const model = await llama.loadModel({modelPath: file, gpuLayers: 0});
const context = await model.createContext({
    sequences: parallel,
    contextSize: Number(flags.context),
    batchSize: Math.max(512, parallel),
    threads: {ideal: threads, min: threads},
});
const template = new Template(model.fileInfo.metadata.tokenizer.chat_template);
const name = file.split("/").at(-1);

// Sequences that nobody uses, and those who wait for one.
const idle = Array.from({length: parallel}, () => context.getSequence());
const waiting = [];

function seat() {
    return idle.length ? idle.pop() : new Promise((resolve) => waiting.push(resolve));
}

function leave(sequence) {
    if (waiting.length) waiting.shift()(sequence);
    else idle.push(sequence);
}

function promptOf(messages) {
    const special = (token) => token == null ? "" : model.detokenize([token], true);
    return model.tokenize(template.render({
        messages: messages.map(({role, content}) => ({role, content: textOf(content)})),
        add_generation_prompt: true,
        bos_token: special(model.tokens.bos),
        eos_token: special(model.tokens.eos),
    }), true);
}

function textOf(content) {
    return typeof content === "string" ? content : content.map((part) => part.text).join("");
}

// The pieces of one answer; `told` is filled with what is known at its end.
async function* pieces(body, told) {
    const prompt = promptOf(body.messages);
    const most = body.max_completion_tokens ?? body.max_tokens ?? 256;
    told.usage = {prompt_tokens: prompt.length, completion_tokens: 0};
    told.finish = "stop";
    const sequence = await seat();
    try {
        await sequence.clearHistory(); // nothing is found again of who sat here before
        let said = [], before = [];
        for await (const token of sequence.evaluate(prompt, {temperature: 0})) {
            told.usage.completion_tokens += 1;
            said.push(token);
            let text = model.detokenize(said, false, before);
            if (text.endsWith("\ufffd")) text = ""; // the rest of the character is to come
            else if (text) [before, said] = [said, []];
            if (text) yield text;
            if (told.usage.completion_tokens >= most) {
                told.finish = "length";
                break;
            }
        }
    } finally {
        leave(sequence);
        told.usage.total_tokens = told.usage.prompt_tokens + told.usage.completion_tokens;
    }
}

function about(kind) {
    return {object: kind, created: Math.floor(Date.now() / 1000), model: name};
}

async function stream(body, reply) {
    reply.writeHead(200, {"content-type": "text/event-stream"});
    const send = (value) => reply.write(`data: ${JSON.stringify(value)}\n\n`);
    const chunk = {id: `chatcmpl-${Math.random().toString(36).slice(2)}`, ...about("chat.completion.chunk")};
    send({...chunk, choices: [{index: 0, delta: {role: "assistant"}, finish_reason: null}]});
    const told = {};
    for await (const content of pieces(body, told)) {
        if (reply.destroyed) return;
        send({...chunk, choices: [{index: 0, delta: {content}, finish_reason: null}]});
    }
    send({...chunk, choices: [{index: 0, delta: {}, finish_reason: told.finish}]});
    send({...chunk, choices: [], usage: told.usage});
    reply.end("data: [DONE]\n\n");
}

async function whole(body, reply) {
    const told = {};
    let content = "";
    for await (const piece of pieces(body, told)) content += piece;
    json(reply, 200, {
        ...about("chat.completion"),
        choices: [{index: 0, message: {role: "assistant", content}, finish_reason: told.finish}],
        usage: told.usage,
    });
}

function json(reply, status, value) {
    reply.writeHead(status, {"content-type": "application/json"}).end(JSON.stringify(value));
}

async function answer(request, reply) {
    const route = `${request.method} ${request.url.split("?")[0]}`;
    if (route === "GET /health") return json(reply, 200, {status: "ok"});
    if (route === "GET /v1/models") {
        return json(reply, 200, {object: "list", data: [{id: name, object: "model"}]});
    }
    if (route !== "POST /v1/chat/completions") {
        return json(reply, 404, {error: {message: `there is no ${route}`}});
    }
    let read = "";
    for await (const part of request.setEncoding("utf8")) read += part;
    const body = JSON.parse(read);
    await (body.stream ? stream : whole)(body, reply);
}

const server = createServer((request, reply) => {
    answer(request, reply).catch((error) => {
        if (reply.headersSent) reply.destroy();
        else json(reply, 400, {error: {message: String(error.message ?? error)}});
    });
});
server.listen(Number(flags.port), flags.host, () => console.log(`ready on ${flags.host}`));
process.on("SIGTERM", () => process.exit(0));
