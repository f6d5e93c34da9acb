"""A chat template is a program out of a downloaded file. These end in one clear line, in little time and memory."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import render_jinja_template

from groundup.core.errors import GroundupError, UsageError
from groundup.inputs.chat import render

TALK = [{"role": "user", "content": "Hi <b> & 'you'"}, {"role": "assistant", "content": "  Yes\n"}]
BIG = "{% set big = 'x' * 900000 %}"
NS = "{% set ns = namespace(v={start}) %}{% for i in range({n}) %}{% set ns.v = {step} %}{% endfor %}"


def grown(start: str, step: str, n: int = 100, then: str = "") -> str:
    return NS.replace("{start}", start).replace("{n}", str(n)).replace("{step}", step) + then


ENDLESS = {
    "a range without end": "{% for i in range(10**9) %}{% endfor %}",
    "loops in loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "loops that print": "{% for i in range(9999) %}{% for j in range(9999) %}ab{% endfor %}{% endfor %}",
    "loops in a filter": "{% for i in range(9999) %}{{ range(9999) | list | length }}{% endfor %}",
    "lazy filters": "{% for i in range(9999) %}{{ range(9999) | map('string') | map('upper') | join | length }}{% endfor %}",
    "loops that sort": "{% set l = range(9999) | list %}{% for i in range(9999) %}{{ (l | sort)[0] }}{% endfor %}",
    "loops that compare": "{% set a = 'x' * 900000 %}{% set b = 'x' * 900000 %}{% for i in range(9999) %}{% for j in range(99) %}{{ a == b }}{% endfor %}{% endfor %}",
    "a macro that calls itself": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n < 40 %}{{ m(n + 1) }}{{ m(n + 1) }}{% endif %}{% endmacro %}{{ m(0) }}",
    "a loop that calls itself": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "a call block in itself": "{% macro m() %}{{ caller() }}{{ m() }}{% endmacro %}{% call m() %}x{% endcall %}",
    "a power of powers": "{{ 9 ** 9 ** 9 ** 9 ** 9 ** 9 }}",
    "a long number divided": "{% set a = 7 ** 300000 %}{% for i in range(9999) %}{{ (a // 3) % 2 }}{% endfor %}",
    "a number squared for ever": grown("3", "ns.v * ns.v"),
    "a rounding": "{{ 5 | round(10**9, 'ceil') }}",
    "a search from the right": BIG + "{{ big.rfind('y' ~ 'x' * 400000) }}",
    "stripping many letters": BIG + "{{ big.strip('y' * 800000 ~ 'x') }}",
}

LARGE = {
    "a text repeated": "{{ 'a' * 10**10 }}",
    "a text repeated by a letter": "{{ 10**10 * 'a' }}",
    "a list repeated": "{{ [0] * 10**9 }}",
    "a tuple repeated": "{{ (0, 1) * 10**9 }}",
    "a text doubled by ~": grown("'x'", "ns.v ~ ns.v"),
    "a text doubled by +": grown("'x'", "ns.v + ns.v"),
    "a list doubled": grown("[1]", "[ns.v, ns.v]", then="{{ ns.v }}"),
    "a tuple doubled": grown("(1,)", "(ns.v, ns.v)", then="{{ ns.v | tojson }}"),
    "a dict doubled": grown("{}", "{'a': ns.v, 'b': ns.v}", then="{{ ns.v == 1 }}"),
    "a dict() doubled": grown("{}", "dict(a=ns.v, b=ns.v)", then="{{ ns.v | string }}"),
    "arguments doubled": "{% macro m() %}{{ m(varargs, varargs) }}{% endmacro %}{{ m('x') }}",
    "namespaces doubled": grown("1", "namespace(a=ns.v, b=ns.v)", then="{{ ns.v }}"),
    "a text added to for ever": grown("''", "ns.v + 'aaaaaaaaaaaaaaaaaaaaaaaa'", n=9999),
    "a text kept in pieces": BIG + "{% set x %}{% for i in range(9999) %}{{ big }}{% endfor %}{% endset %}",
    "a text filtered in pieces": BIG + "{% filter upper %}{% for i in range(9999) %}{{ big }}{% endfor %}{% endfilter %}",
    "slices": BIG + "{% set l = [" + "big[1:], " * 900 + "] %}",
    "slices in a loop": BIG + "{% for i in range(9999) %}{% set x = big[1:] %}{% endfor %}",
    "a replacement": BIG + "{{ big.replace('x', 'y' * 900000) }}",
    "a replacement of nothing": BIG + "{{ big | replace('', big) }}",
    "a join": BIG + "{{ big.join(range(9999) | map('string')) }}",
    "a join by filter": BIG + "{{ range(9999) | join(big) }}",
    "a join of attributes": BIG + "{{ ([{'a': big}] * 1000) | join(attribute='a') }}",
    "a sum of lists": "{{ [[1, 2]] | sum(start=[]) }}",
    "a wide field": "{{ '%999999999d' % 1 }}",
    "a wide field from outside": "{{ '%*d' % (10**9, 1) }}",
    "a wide format": "{{ '{:999999999}'.format(1) }}",
    "a long fraction": "{{ '%.999999999f' % 1 }}",
    "a wide field by name": "{{ '%(a)-999999999s' % {'a': 1} }}",
    "a long fraction in a format": "{{ '{0:.999999999f}'.format(1) }}",
    "a wide format from outside": "{{ '{:{}}'.format(1, 10**9) }}",
    "a format filter": "{{ '%999999999s' | format(1) }}",
    "many fields": BIG + "{{ ('{0}' * 1000).format(big) }}",
    "many signs": BIG + "{{ '%s%s%s%s' % (big, big, big, big) }}",
    "a centre": "{{ 'x'.center(10**9) }}",
    "zeros": "{{ 'x'.zfill(10**9) }}",
    "an indent": "{{ ('\n' * 90000) | indent(9000) }}",
    "an indent by name": "{{ ('\n' * 90000) | indent(first=true, width=9000) }}",
    "a deep JSON": grown("[]", "[ns.v]", n=900, then="{{ ns.v | tojson(indent=10**6) }}"),
    "a deep list": grown("[]", "[ns.v]", n=5000, then="{{ ns.v }}"),
    "a tab": "{{ '\t'.expandtabs(10**9) }}",
    "an integer's bytes": "{{ (1).to_bytes(10**9, 'big') }}",
    "a translation": BIG + "{{ big.translate({120: big}) }}",
    "placeholder text": "{{ lipsum(n=10**6) }}",
    "a date": "{{ strftime_now('%Y' * 10**7) }}",
}  # fmt: skip

REACHING = {
    "a class": "{{ ''.__class__ }}",
    "its ancestors": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "by item": "{{ ''['__class__'] }}",
    "by a name put together": "{{ ''['__cl' ~ 'ass__'] }}",
    "by filter": "{{ '' | attr('__class__') }}",
    "by map": "{{ [''] | map(attribute='__class__') | list }}",
    "by format": "{{ '{0.__class__}'.format('') }}",
    "by format_map": "{{ '{a.__class__}'.format_map({'a': ''}) }}",
    "by sort": "{{ ['', 'a'] | sort(attribute='__class__') }}",
    "a function's globals": "{{ raise_exception.__globals__ }}",
    "a class's globals": "{{ namespace.__init__.__globals__ }}",
    "a cycler's globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "a method's owner": "{{ range.__self__ }}",
    "a macro's module": "{% macro m() %}{% endmacro %}{{ m.__class__ }}",
    "the template's own context": "{{ self._TemplateReference__context }}",
    "the loop's own iterator": "{% for m in messages %}{{ loop._iterable }}{% endfor %}",
    "a generator's frame": "{{ (messages | map('length')).gi_frame }}",
    "a namespace that plays a class": "{{ namespace(__class__=1) }}",
    "a namespace changed to one": "{% set ns = namespace() %}{% set ns.__call__ = 1 %}",
    "a list changed": "{{ messages.append(1) }}",
    "a dict changed": "{{ messages[0].update({'role': 'system'}) }}",
    "a dict emptied": "{{ messages[0].clear() }}",
    "another file": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}",
    "a base": "{% extends 'x' %}",
    "a block": "{% block a %}{{ self.a() }}{% endblock %}",
    "escaping": "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "a method that no template needs": "{{ 'x'.encode() }}",
    "the guards": "{{ messages | each }}",
}

BROKEN = {
    "an if": "{% if %}",
    "an end": "{% for m in messages %}",
    "a filter": "{{ 1 | nothing }}",
    "a name": "{{ nothing.more }}",
    "a call": "{{ nothing() }}",
    "a number": "{{ 1 / 0 }}",
    "a type": "{{ 1 + 'x' }}",
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "ifs": "{% if a %}" * 500 + "{% endif %}" * 500,
    "nots": "{{ " + "not " * 9000 + "a }}",
    "sums": "{{ 1" + "+1" * 9000 + " }}",
    "dots": "{{ a" + ".b" * 9000 + " }}",
    "a list of many parts": "{{ [" + "1," * 20000 + "] }}",
    "many prints": "{{a}}" * 12000,
    "too long": "x" * 60001,
    "a digit too many": "{{ " + "9" * 50000 + " }}",
    "quotes": "{{ '" + "\\" * 50000,
    "comments": "{#" * 20000,
    "nulls": "{{ \0 }}",
}

ALL = ENDLESS | LARGE | REACHING | BROKEN


@pytest.mark.parametrize("name", ALL)
def test_a_hostile_template_ends_in_one_clear_line(name: str) -> None:
    before = time.thread_time()
    with pytest.raises(GroundupError) as caught:
        render(ALL[name], TALK)
    assert time.thread_time() - before < 2  # of this thread's work; how busy the machine is has no part in it
    message = str(caught.value)
    assert message.startswith("The chat template failed: ") and message.isprintable() and len(message) < 500
    assert caught.value.__cause__ is None and "limit" not in message.split()[:1]


def test_they_take_little_memory() -> None:
    """All of them in a process of its own: what it ever held at once."""
    code = (
        "import json, resource, sys\n"
        "from groundup.core.errors import GroundupError\n"
        "from groundup.inputs.chat import render\n"
        "templates = json.load(sys.stdin)\n"
        "render('x', [{'role': 'user', 'content': 'x'}])\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for template in templates:\n"
        "    try:\n"
        "        render(template, [{'role': 'user', 'content': 'x'}])\n"
        "    except GroundupError:\n"
        "        pass\n"
        "print((peak() - before) // 1024)\n"
    )
    slow = {"many prints", "a list of many parts", *ENDLESS}  # more time than memory
    given = json.dumps([template for name, template in ALL.items() if name not in slow])
    root = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True, cwd=root
    )
    assert int(done.stdout) < 100  # MiB


def test_the_limits_hold_in_any_thread() -> None:
    caught: list[GroundupError] = []

    def work() -> None:
        try:
            render(ENDLESS["loops in loops"], TALK)
        except GroundupError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive() and "ran for more than" in str(caught[0])


def test_jinjas_own_sandbox_would_not_do() -> None:
    """The control: some of these pass there, and two templates of the corpus do what they are meant to do."""
    own = ImmutableSandboxedEnvironment()
    assert len(own.from_string("{{ 'a' * 3000000 }}").render()) == 3_000_000
    assert len(own.from_string("{{ '%3000000d' % 1 }}").render()) == 3_000_000
    assert own.from_string("{% for i in range(9999) %}{% for j in range(99) %}{% endfor %}{% endfor %}").render() == ""
    with pytest.raises(SecurityError):
        own.from_string(REACHING["its ancestors"]).render()


def test_what_a_template_refuses_is_told_on_one_line() -> None:
    with pytest.raises(UsageError, match="^The chat template refuses this conversation: No way, \\\\u001b.31m really$"):
        render("{{ raise_exception('No way,\n \x1b[31m  really.') }}", TALK)
    with pytest.raises(UsageError) as caught:
        render(BIG + "{{ raise_exception(big) }}", TALK)
    assert len(str(caught.value)) < 500


# --- and what good templates do, they still do ----------------------------------------------------------------------

GOOD = [
    "{{ messages | length }} {{ messages[-1].content | trim | upper }} {{ messages[0]['content'][3:] }} {{ messages[::-1][0].role }}",
    "{% for m in messages %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}"
    "{{ loop.previtem.role if loop.previtem else '-' }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ m.content }}{{ loop.length }}{% else %}none{% endfor %}",
    "{% for m in messages | selectattr('role', 'equalto', 'assistant') %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% continue %}x{% endfor %}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0] | dictsort }}",
    "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.found = true %}"
    "{% endfor %}{{ ns.found }}{{ ns.n }}",
    "{% macro say(m, end='.') %}{{ m.role ~ ': ' ~ m.content }}{{ end }}{{ varargs }}{% endmacro %}{{ say(messages[0]) }}"
    "{{ say(messages[1], '!', 1, 2) }}",
    "{% macro deep(n) %}{{ n }}{% if n %}{{ deep(n - 1) }}{% endif %}{% endmacro %}{{ deep(12) }}",
    "{% macro box() %}[{{ caller() }}]{% endmacro %}{% call box() %}x{% endcall %}{% filter upper %}y{% endfilter %}",
    "{% set x %}a{{ 1 }}b{% endset %}{{ x }}{{ x | replace('a', 'c') }}{{ x.replace('b', '', 1) }}",
    "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ 'é<>' | tojson(ensure_ascii=true) }}"
    "{{ {'b': 1, 'a': [1.5, none, true]} | tojson(sort_keys=true, separators=(',', ':')) }}",
    "{{ 'a,b,,c'.split(',') }}{{ 'a b'.split() | join('-') }}{{ ','.join(['x', 'y']) }}{{ ['x', 1] | join }}",
    "{{ '%s-%03d' % ('a', 7) }}{{ '{}:{b:>4}'.format(1, b=2) }}{{ '%.2f' | format(1.234) }}{{ 'in 2024 {{}} {}: {}'.format(12345, 2) }}",
    "{{ 1 + 2 * 3 - 4 // 3 % 2 ** 2 }}{{ 7 / 2 }}{{ [1] + [2] }}{{ 'ab' * 2 }}{{ (1, 2) + (3,) }}",
    "{{ none }}{{ true }}{{ [] }}{{ {} }}{{ [1, 'a', none] }}{{ {'a': (1, 2)} }}{{ 1.0 }}{{ undefined_thing }}",
    "{{ undefined_thing is defined }}{{ messages is iterable }}{{ 'x' is string }}{{ messages[0] is mapping }}{{ 3 is odd }}",
    "{{ 'a' in 'abc' }}{{ 'role' in messages[0] }}{{ 3 not in [1, 2] }}{{ 1 < 2 <= 2 }}{{ (1 if false) }}",
    "{{ 'x' if messages else 'y' }}{{ messages[9] is defined }}{{ (missing | default('d')) }}{{ none | default('e', true) }}",
    "{{ 'Some text here' | title | truncate(9) }}{{ 'a\nb' | indent(3, true) }}{{ 'ABC' | lower | first }}{{ [3, 1] | sort | last }}",
    "{{ [1, 2, 2] | unique | list }}{{ [1, 2] | sum }}{{ [1, 5] | max }}{{ '7' | int + 1 }}{{ '1.5' | float }}{{ -3 | abs }}{{ 2.567 | round(1) }}",
    "{{ messages | map(attribute='role') | list }}{{ messages | groupby('role') | length }}{{ range(1, 9, 3) | list }}",
    "{%- for m in messages -%}\n  {{- m.role -}}  \n{%- endfor -%}   end\n  {% if true %}\nline\n  {% endif %}\n",
    "{% generation %}{% set z = 1 %}{{ messages[1].content }}{% endgeneration %}{{ z is defined }}",
    "{{ dict(a=1) }}{{ messages[0].get('x', 'none') }}{{ messages[0].keys() | list }}{{ 'abc' | reverse }}{{ '<b>' | e }}{{ '<b>' | safe }}",
    "{{ 'abc'.startswith('a') }}{{ ' x '.strip() }}{{ 'xax'.strip('x') }}{{ 'abc'.upper().find('C') }}{{ 'a' 'b' }}{{ 'abc'[1] }}",
    "{{ raise_exception is defined }}{{ strftime_now('%Y') | length }}{# a comment #}{% raw %}{{ raw }}{% endraw %}",
]  # fmt: skip


@pytest.mark.parametrize("template", GOOD)
def test_a_good_template_gives_what_the_reference_gives(template: str) -> None:
    rendered, _ = render_jinja_template([TALK], chat_template=template, add_generation_prompt=True)
    assert render(template, TALK, add_generation_prompt=True) == rendered[0]


def test_a_long_conversation_is_no_attack() -> None:
    """Forty messages of a thousand words, by a template that builds its text from the front again and again."""
    template = (
        "{% set ns = namespace(out='') %}{% for m in messages %}{% set rest = messages[loop.index0:] %}"
        "{% set ns.out = ns.out + '<' + m.role + '>' + m.content %}{% endfor %}{{ ns.out }}"
    )
    talk = [{"role": "user", "content": f"{place} " + "word " * 1000} for place in range(40)]
    assert render(template, talk) == "".join(f"<user>{message['content']}" for message in talk)
