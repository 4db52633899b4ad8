"""openai under openinference's instrumentation, whose span is above upstream's."""

import sys

import openai
from openai.types.chat import ChatCompletionMessageParam

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="key", max_retries=1)
messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
answer = client.chat.completions.create(model="some", messages=messages)
print(answer.choices[0].message.content)
with client.chat.completions.create(model="some", messages=messages, stream=True) as stream:
    print([part.choices[0].delta.content for part in stream])
