// What the official TypeScript client makes of our answers: `node judge.mjs URL STORY` talks to the
// server at URL as STORY below says, and prints what the client handed over, as JSON. It judges
// nothing itself: tests/server/test_against_typescript.py does, which also says what the model says.

import Anthropic from '@anthropic-ai/sdk';
import { betaZodTool } from '@anthropic-ai/sdk/helpers/beta/zod';
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';
import { z } from 'zod';

const [url, story] = process.argv.slice(2);
const client = new Anthropic({ baseURL: url, apiKey: 'local', maxRetries: 0 });

const ask = {
  model: 'claude-haiku-4-5',
  max_tokens: 3000,
  messages: [{ role: 'user', content: 'What is the weather in Paris?' }],
};
const weather = {
  name: 'get_weather',
  input_schema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
};

// The answer at once, the answer as the client adds up the events, and what it told meanwhile.
async function bothWays(params) {
  const plain = await client.messages.create(params);
  const heard = { text: '', thinking: '', signature: '', inputJson: '' };
  const stream = client.messages.stream(params);
  for (const kind of Object.keys(heard)) {
    stream.on(kind, (piece) => (heard[kind] += piece));
  }
  return { plain, streamed: await stream.finalMessage(), heard };
}

// The class of the error that a call ends in, and what it carries.
async function refusal(call) {
  try {
    await call();
    return null;
  } catch (error) {
    const { status, type, requestID, message } = error;
    return { class: error.constructor.name, status, type, requestID, message };
  }
}

const stories = {
  text: () => bothWays(ask),

  tools: () => bothWays({ ...ask, tools: [weather] }),

  thinking: () => bothWays({ ...ask, thinking: { type: 'adaptive' } }),

  async parse() {
    const format = zodOutputFormat(z.object({ city: z.string(), degrees: z.number() }));
    const message = await client.messages.parse({ ...ask, output_config: { format } });
    return message.parsed_output;
  },

  async runner() {
    const ran = [];
    const tool = betaZodTool({
      name: 'get_weather',
      description: 'The weather in a city.',
      inputSchema: z.object({ city: z.string() }),
      run: ({ city }) => {
        ran.push(city);
        return `sun in ${city}`;
      },
    });
    const last = await client.beta.messages.toolRunner({ ...ask, tools: [tool] });
    const streamed = [];
    for await (const stream of client.beta.messages.toolRunner({
      ...ask,
      tools: [tool],
      stream: true,
    })) {
      streamed.push((await stream.finalMessage()).stop_reason);
    }
    return { last, ran, streamed };
  },

  async count() {
    const { max_tokens, ...counted } = { ...ask, tools: [weather], system: 'Be brief.' };
    const { usage } = await client.messages.create({ ...counted, max_tokens });
    return { counted: await client.messages.countTokens(counted), usage };
  },

  async models() {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model.id);
    return { listed, found: (await client.models.retrieve('claude-haiku-4-5')).id };
  },

  async errors() {
    const stranger = new Anthropic({ baseURL: url, apiKey: 'wrong', maxRetries: 0 });
    return {
      invalid: await refusal(() => client.messages.create({ ...ask, messages: [] })),
      unknown: await refusal(() => client.messages.create({ ...ask, model: 'nope' })),
      thread: await refusal(() =>
        client.beta.messages.create({ ...ask, thread: { type: 'create' } }),
      ),
      streamed: await refusal(() =>
        client.messages.stream({ ...ask, model: 'nope' }).finalMessage(),
      ),
      stranger: await refusal(() => stranger.messages.create(ask)),
    };
  },

  async broken() {
    return refusal(() => client.messages.stream(ask).finalMessage());
  },
};

console.log(JSON.stringify(await stories[story]()));
