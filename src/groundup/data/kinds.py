"""The kinds of rows: how each is recognised by its keys, checked field by field, and brought into one shape.

text                {"text"}
prompt-completion   {"prompt", "completion"}: two texts, or two lists of messages
alpaca              {"instruction", "input"?, "output", "system"?, "history"?}
messages            {"messages": [{"role", "content", "tool_calls"?}], "tools"?}
sharegpt            {"conversations": [{"from", "value"}], "system"?, "tools"?}
preference          {"prompt"?, "chosen", "rejected"}         recognised, not for training by next token
tags                {"tokens", "tags"}: words, and a tag for each       for a head of labels
choices             {"prompt" or "question", "choices", "answer"}      for evaluation, and for T-Few's losses
and rows of completions with a label, step by step, or with pictures, sound or video: recognised, for the same reason refused
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from groundup.data import formats
from groundup.data.formats import Record
from groundup.data.problems import BadRow

Row = dict[str, Any]

TRAINABLE = ("text", "prompt-completion", "alpaca", "messages", "sharegpt")

_MEDIA = {"image": ("image", "images"), "audio": ("audio", "audios"), "video": ("video", "videos")}
_LEADING = {  # the first key found decides; the rest of the row is then asked for by name
    "choices": "choices",
    "tokens": "tags",
    "chosen": "preference",
    "rejected": "preference",
    "messages": "messages",
    "conversations": "sharegpt",
    "instruction": "alpaca",
    "prompt": "prompt-completion",
    "completion": "prompt-completion",
    "text": "text",
}


def recognise(record: Record) -> str:
    """The kind of a record, from its keys. Raises `BadRow` when it is none."""
    for kind, keys in _MEDIA.items():
        if any(record.get(key) for key in keys):
            return kind
    if "completions" in record and "labels" in record:
        return "stepwise"
    if "kto_tag" in record or ("completion" in record and "label" in record):
        return "unpaired preference"
    for key in _LEADING:
        if key in record:
            return _LEADING[key]
    own = ", ".join(map(str, list(record)[:8])) or "none"
    known = "text; prompt, completion; instruction, output; messages; conversations"
    raise BadRow("", f"is of no known kind (its keys: {own})", f"Rows have the keys {known}.")


def _text_row(record: Record, answers: bool, ignored: dict[str, None]) -> Row:
    _note(record, ("text",), ignored)
    return {"text": _text(record, "text")}


def _prompt_row(record: Record, answers: bool, ignored: dict[str, None]) -> Row:
    _note(record, ("prompt", "completion", "tools"), ignored)
    if isinstance(record.get("prompt"), list):
        prompt = _items(record, "prompt")
        asked = answers or "completion" in record
        turns = prompt + (_items(record, "completion") if asked else [])
        messages = _messages(turns, "prompt + completion", answers, ignored)
        if asked and (at := len(prompt)) and messages[at]["role"] != "assistant":
            raise BadRow("completion", f"begins with {messages[at]['role']}", "It begins with the assistant's answer.")
        return {"messages": messages, **_tools(record), "given": len(prompt)}
    if "tools" in record:
        raise BadRow("tools", "stands beside a prompt that is one text", "Write the row as messages.")
    row = {"prompt": _text(record, "prompt")}
    if answers or "completion" in record:
        row["completion"] = _text(record, "completion", "Write the answer, or remove the row.")
    return row


def _alpaca_row(record: Record, answers: bool, ignored: dict[str, None]) -> Row:
    _note(record, ("instruction", "input", "output", "system", "history"), ignored)
    messages = []
    if record.get("system"):
        messages.append({"role": "system", "content": _text(record, "system")})
    for number, pair in enumerate(_items(record, "history") if record.get("history") else []):
        if not (isinstance(pair, list) and len(pair) == 2):
            raise BadRow(f"history[{number}]", "is no pair", "Write [question, answer].")
        for role, place in (("user", 0), ("assistant", 1)):
            messages.append({"role": role, "content": _string(pair[place], f"history[{number}][{place}]")})
    question = _text(record, "instruction")
    if record.get("input"):
        question += "\n\n" + _text(record, "input")
    messages.append({"role": "user", "content": question})
    if answers or "output" in record:
        answer = _text(record, "output", "Write the answer, or remove the row.")
        messages.append({"role": "assistant", "content": answer})
    return {"messages": messages}


def _messages_row(record: Record, answers: bool, ignored: dict[str, None]) -> Row:
    _note(record, ("messages", "tools"), ignored)
    return {"messages": _messages(_items(record, "messages"), "messages", answers, ignored), **_tools(record)}


_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("observation", "tool"), "tool"),
    "system": "system",
}


def _sharegpt_row(record: Record, answers: bool, ignored: dict[str, None]) -> Row:
    _note(record, ("conversations", "tools", "system", "system_prompt"), ignored)
    messages: list[object] = []
    for key in ("system", "system_prompt"):
        if record.get(key):
            messages.append({"role": "system", "content": _text(record, key)})
    before = len(messages)
    for number, turn in enumerate(_items(record, "conversations")):
        place = f"conversations[{number}]"
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise BadRow(place, "is no turn", 'Write {"from": "human", "value": "..."}.')
        speaker = turn["from"]
        if not isinstance(speaker, str) or speaker not in _SPEAKERS:
            raise BadRow(f"{place}.from", f"is {show(speaker)}", f"Known: {', '.join(_SPEAKERS)}.")
        message = {"role": _SPEAKERS[speaker], "content": turn["value"]}
        if speaker == "function_call":
            call = _inner_json(turn["value"], f"{place}.value")
            message |= {"content": "", "tool_calls": [{"type": "function", "function": call}]}
        messages.append(message)
        for key in turn:
            if key not in ("from", "value"):
                ignored[f"conversations.{key}"] = None
    return {"messages": _messages(messages, "conversations", answers, ignored, offset=before), **_tools(record)}


def _tags_row(record: Record, answers: bool, ignored: dict[str, None]) -> Row:
    names = ("tags", "ner_tags", "labels")
    key = next((name for name in names if name in record), "tags")
    _note(record, ("tokens", key), ignored)
    words, tags = _items(record, "tokens"), _items(record, key)
    for number, word in enumerate(words):
        if not _string(word, f"tokens[{number}]").strip():
            raise BadRow(f"tokens[{number}]", "is empty", "Write a word, or remove it and its tag.")
    if len(tags) != len(words):
        raise BadRow(key, f"has {len(tags)} tags for {len(words)} words", "Write one for each word.")
    if not all(isinstance(tag, str | int) and not isinstance(tag, bool) for tag in tags):
        raise BadRow(key, "holds something that is no name", "Write each tag in quotes.")
    return {"tokens": words, "tags": [str(tag) for tag in tags]}


def _choices_row(record: Record, answers: bool, ignored: dict[str, None]) -> Row:
    key = "prompt" if "prompt" in record else "question"
    _note(record, (key, "choices", "answer"), ignored)
    choices = [_string(choice, f"choices[{n}]") for n, choice in enumerate(_items(record, "choices"))]
    if len(choices) < 2 or not all(choice.strip() for choice in choices) or len(set(choices)) < len(choices):
        raise BadRow("choices", "are not at least two different texts", "Write each choice once.")
    row: Row = {key: _text(record, key), "choices": choices}
    if answers or "answer" in record:
        answer = record.get("answer")
        if isinstance(answer, str) and answer in choices:
            answer = choices.index(answer)
        if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
            fix = f"Write one of the choices, or its place from 0 to {len(choices) - 1}."
            raise BadRow("answer", f"is {show(record.get('answer'))}", fix)
        row["answer"] = answer
    return row


def _kept_row(record: Record, answers: bool, ignored: dict[str, None]) -> Row:
    """Kinds that this library recognises and does not train by next token: kept as they are."""
    return record


READERS: dict[str, Callable[[Record, bool, dict[str, None]], Row]] = {
    "text": _text_row,
    "prompt-completion": _prompt_row,
    "alpaca": _alpaca_row,
    "messages": _messages_row,
    "sharegpt": _sharegpt_row,
    "tags": _tags_row,
    "choices": _choices_row,
    **dict.fromkeys(("preference", "unpaired preference", "stepwise", *_MEDIA), _kept_row),
}


# --- messages -------------------------------------------------------------------------------------------------------

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_AFTER = {
    "system": ("",),
    "user": ("", "system", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
_KEPT = ("tool_calls", "tool_call_id", "name", "reasoning_content")
_CALL = 'Write [{"function": {"name": ..., "arguments": {...}}}].'


def _messages(
    turns: list[Any], where: str, answers: bool, ignored: dict[str, None], offset: int = 0
) -> list[dict[str, Any]]:
    """The turns, checked: known roles in a possible order, texts that say something, an answer at the end."""
    messages: list[dict[str, Any]] = []
    before = ""
    for number, turn in enumerate(turns):
        place = f"{where}[{number - offset}]"
        if not isinstance(turn, dict):
            raise BadRow(place, f"is {show(turn)}, no message", 'Write {"role": "user", "content": "..."}.')
        turn = {key: value for key, value in turn.items() if value is not None}
        if "role" not in turn:
            raise BadRow(f"{place}.role", "is missing", f"Write one of {', '.join(_ROLES)}.")
        role = _ROLES.get(turn["role"], "") if isinstance(turn["role"], str) else ""
        if not role:
            raise BadRow(f"{place}.role", f"is {show(turn['role'])}", f"Known roles: {', '.join(_ROLES)}.")
        if before not in _AFTER[role]:
            fix = "A system message stands first, then user and assistant take turns."
            raise BadRow(f"{place}.role", f"{role} follows {before or 'nothing'}", fix)
        if "weight" in turn:
            raise BadRow(f"{place}.weight", "is not supported", "Every assistant turn is trained: remove the field.")
        message: dict[str, Any] = {"role": role, "content": _content(turn, place)}
        message |= {key: turn[key] for key in _KEPT if turn.get(key)}
        if "tool_calls" in message:
            message["tool_calls"] = _calls(message["tool_calls"], f"{place}.tool_calls")
        for key in turn:
            if key not in ("role", "content", *_KEPT):
                ignored[f"{where}.{key}"] = None
        messages.append(message)
        before = role
    if answers and before != "assistant":
        fix = "End with the assistant's answer, or remove the row."
        raise BadRow(f"{where}[{len(turns) - 1 - offset}]", f"is the last and from {before}", fix)
    if not answers and before == "system":
        raise BadRow(where, "holds a system message only", "Add the user's message.")
    return messages


def _content(turn: dict[str, Any], place: str) -> str:
    content = turn.get("content", "")
    if isinstance(content, list):  # OpenAI's parts
        parts = [part for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        if len(parts) < len(content):
            raise BadRow(f"{place}.content", "has parts that are no text", "Only text parts can be used here.")
        content = "".join(part["text"] for part in parts)
    content = _string(content, f"{place}.content")
    if not content.strip() and not turn.get("tool_calls") and turn["role"] != "tool":
        missing = "is empty" if "content" in turn else "is missing"
        raise BadRow(f"{place}.content", missing, "Write what is said, or remove the row.")
    return content


def _calls(calls: object, place: str) -> list[dict[str, Any]]:
    """Tool calls with `arguments` as an object: OpenAI's JSON text would be quoted a second time by the template."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadRow(place, "is no list of calls", _CALL)
    done = []
    for number, call in enumerate(calls):
        function = call.get("function", call)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(f"{place}[{number}]", "names no function", _CALL)
        if isinstance(function.get("arguments"), str):
            arguments = _inner_json(function["arguments"], f"{place}[{number}].arguments")
            function = {**function, "arguments": arguments}
        done.append({**call, "function": function} if "function" in call else function)
    return done


def _tools(record: Record) -> dict[str, Any]:
    tools = record.get("tools")
    if isinstance(tools, str) and tools.strip():
        tools = _inner_json(tools, "tools", list)
    if not tools:
        return {}
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("tools", "is no list of objects", "Write each tool as its JSON schema.")
    return {"tools": tools}


# --- fields ---------------------------------------------------------------------------------------------------------


def _note(record: Record, used: Sequence[str], ignored: dict[str, None]) -> None:
    ignored.update((str(key), None) for key in record if key not in used)


def _text(record: Record, key: str, fix: str = "Write a text, or remove the row.") -> str:
    if key not in record:
        raise BadRow(key, "is missing", f"Add it, or remove the row (its keys: {', '.join(map(str, record))}).")
    value = _string(record[key], key)
    if not value.strip():
        raise BadRow(key, "is empty", fix)
    return value


def _string(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise BadRow(place, f"is {show(value)}, not a text", "Write it in quotes.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        raise BadRow(place, f"holds half a character ({half})", "Repair the text's escapes.") from None
    return value


def _items(record: Record, key: str) -> list[Any]:
    if key not in record:
        raise BadRow(key, "is missing", f"Add it, or remove the row (its keys: {', '.join(map(str, record))}).")
    value = record[key]
    if isinstance(value, str):  # a CSV cell
        value = _inner_json(value, key, list)
    if not isinstance(value, list | tuple):
        raise BadRow(key, f"is {show(value)}, not a list", "Write a list of objects.")
    if not value:
        raise BadRow(key, "is empty", "Write at least a question and its answer, or remove the row.")
    return list(value)


def _inner_json(text: object, place: str, kind: type = dict) -> Any:
    try:
        value, end = formats.parse(text.strip() if isinstance(text, str) else "")
        if isinstance(text, str) and text.strip()[end:] == "" and isinstance(value, kind):
            return value
    except BadRow:
        pass
    raise BadRow(place, f"is no JSON {'object' if kind is dict else 'list'}", "Repair the text.")


def show(value: object) -> str:
    """A value in an error: short, on one line, without control characters."""
    text = ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."
