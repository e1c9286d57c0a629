"""Chat templates of tests: ChatML with tools, one that changes the past, and one without marks."""

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
