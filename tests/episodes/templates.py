"""Chat templates of tests: ChatML with tools, one that changes the past, one without marks, and the kinds of Qwen3 and
Llama 3.1.
"""

CHATML = (
    "{%- if tools %}<|im_start|>system\nTools:{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# earlier thoughts are cut out, the last message ends differently, and answers of tools are one user's turn
FORGETFUL = (
    "{%- for message in messages %}"
    "{%- set words = message.content.split('</think>')[-1] | trim if not loop.last else message.content %}"
    "{%- if message.role == 'tool' %}"
    "{%- if messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "\n[{{ message.content }}]"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{%- else %}<|im_start|>{{ message.role }}\n"
    "{% if loop.last and message.role == 'assistant' %}<think></think>{% endif %}{{ words }}<|im_end|>\n{% endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

PLAIN = (
    "{%- for message in messages %}{{ message.role | upper }}: {{ message.content }}\n{% endfor %}"
    "{%- if add_generation_prompt %}ASSISTANT:{% endif %}"
)

STRICT = (
    "{%- for message in messages %}{%- if message.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('only users and assistants speak here') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Qwen3's kind: thoughts stay in the answers after the last question, and are cut out of earlier ones; answers of tools
# are one user's turn
QWEN3 = (
    "{%- set last = namespace(question=-1) %}"
    "{%- for message in messages %}{%- if message.role == 'user' %}{% set last.question = loop.index0 %}{% endif %}"
    "{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "{{ '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{%- elif message.role == 'assistant' and '</think>' in message.content and loop.index0 < last.question %}"
    "<|im_start|>assistant\n{{ message.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n"
    "{%- else %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Llama 3.1's kind: heads of turns, trimmed words, tools speak JSON as ipython, and nothing behind the end of a turn
LLAMA3 = (
    "{%- for message in messages %}"
    "<|start|>{{ 'ipython' if message.role == 'tool' else message.role }}<|end_of_head|>\n\n"
    "{{ message.content | tojson if message.role == 'tool' else message.content | trim }}<|im_end|>"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}<|start|>assistant<|end_of_head|>\n\n{% endif %}"
)
