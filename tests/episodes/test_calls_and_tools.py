"""Tool calls in texts, what tools answer, and the calculator."""

from fractions import Fraction

import pytest

from mindrlhf_lite.episodes.calculator import calculator, value_of
from mindrlhf_lite.episodes.calls import find_calls
from mindrlhf_lite.episodes.environment import Action, EnvironmentFailure, Step, Task, ToolCall
from mindrlhf_lite.episodes.guessing import GuessNumber
from mindrlhf_lite.episodes.tools import Tool, ToolEnvironment, schema_of
from mindrlhf_lite.errors import UserError


@pytest.mark.parametrize(
    ("form", "text", "calls"),
    [
        (
            "hermes",
            'So <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><tool_call>{"name": "b"}</tool_call>',
            [ToolCall("add", {"a": 1}), ToolCall("b")],
        ),
        ("hermes", "no call", []),
        (
            "llama3_json",
            ' {"name": "add", "parameters": {"a": 1}}; {"name": "b", "parameters": {}}',
            [ToolCall("add", {"a": 1}), ToolCall("b")],
        ),
        ("llama3_json", 'The answer is {"name": "add"}', []),
        ("python_block", "So:\n```python\nprint(1)\n```\n", [ToolCall("python", {"code": "print(1)\n"})]),
    ],
)
def test_calls_are_found(form, text, calls):
    assert list(find_calls(text, form)) == calls


@pytest.mark.parametrize(
    ("form", "text", "problem"),
    [
        ("hermes", '<tool_call>{"name": "add"', "<tool_call> without </tool_call>"),
        ("hermes", "<tool_call>add(1)</tool_call>", "not JSON"),
        ("hermes", "<tool_call>[1]</tool_call>", '"name"'),
        ("hermes", '<tool_call>{"name": "add", "arguments": 3}</tool_call>', '"arguments" of a call'),
        ("hermes", "<tool_call>" + "[" * 60000 + "</tool_call>", "not JSON"),
        ("llama3_json", '{"name": "add", ', "not JSON"),
        ("python_block", "```python\nprint(1)", "```python without ```"),
    ],
)
def test_calls_that_cannot_be_read_say_why(form, text, problem):
    (call,) = find_calls(text, form)
    assert problem in call.problem


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12*(3+4)", "84"),
        ("123*456", "56088"),
        ("-2**2", "-4"),
        ("7/2", "3.5"),
        ("1/3+1/3", "2/3"),
        ("0.1+0.2", "0.3"),
        ("2**-2", "0.25"),
        ("-7//2", "-4"),
        ("-7%3", "2"),
        ("1,000*3", "3000"),
        ("2^10", "1024"),
        ("-0.05", "-0.05"),
    ],
)
def test_the_calculator_is_exact(expression, value):
    assert calculator(expression) == value


def test_the_calculator_agrees_with_python():
    for text in ("1+2*3-4", "(1+2)*(3-4)/5", "2**3**2", "--3", "100//7%5", "((((7))))", "3*-2"):
        assert value_of(text) == eval(text.replace("/5", "*Fraction(1,5)"), {"Fraction": Fraction})


@pytest.mark.parametrize("expression", ["", "2+", "(2", "2 3", "1/0", "0**-1", "2**0.5", "9**9**9", "__import__('os')"])
def test_what_the_calculator_cannot_do_is_an_error(expression):
    with pytest.raises(ValueError, match=r".+"):
        calculator(expression)


def test_hostile_expressions_end_soon():
    for text in ("(" * 200, "9**" * 60 + "9", "9" * 201, "(" * 29 + "9**500" + ")" * 29):
        with pytest.raises(ValueError, match=r"most|brackets|digits"):
            calculator(text)


def down(place: str) -> str:
    """Looks something up.

    Args:
        place: where.
    """
    raise EnvironmentFailure("the service is down")


def tools_of(**more):
    schema = schema_of("calculator")
    return ToolEnvironment([Tool("calculator", calculator, schema)], **more)


def test_schemas_come_from_the_function():
    schema = schema_of("calculator")["function"]
    assert schema["name"] == "calculator" and schema["parameters"]["required"] == ["expression"]
    with pytest.raises(UserError, match=r"tool 'os\.path\.join'.*annotations"):
        schema_of("os.path.join")
    with pytest.raises(UserError, match="tool 'calc' is unknown"):
        schema_of("calc")


def test_several_calls_are_one_group_of_answers():
    environment = tools_of()
    assert environment.reset(Task(0, "1+1?", "2"), 0) == [{"role": "user", "content": "1+1?"}]
    calls = [("calculator", {"expression": "1+1"}), ("calculator", {"expression": "1/0"}), ("abacus", {})]
    calls += [("calculator", {}), ("calculator", {"expression": 3}), ("calculator", {"expression": "1", "x": 2})]
    step = environment.step(Action("", tuple(ToolCall(*call) for call in calls)))
    assert [message["role"] for message in step.messages] == ["tool"] * 6 and not step.done
    assert [message["content"] for message in step.messages] == [
        "2",
        "error: division by zero",
        "error: there is no tool 'abacus'; there is calculator",
        "error: calculator needs the argument 'expression'",
        "error: the argument 'expression' of calculator must be of type string",
        "error: calculator has no argument 'x'; it has expression",
    ]
    assert step.info == {"malformed": 4}
    assert environment.step(Action("It is 2.")) == Step(done=True)


def test_a_tool_can_say_that_it_failed_itself():
    environment = ToolEnvironment([Tool("down", down, {"function": {"parameters": {"properties": {"place": {}}}}})])
    with pytest.raises(EnvironmentFailure):
        environment.step(Action("", (ToolCall("down", {"place": "here"}),)))


def test_guessing():
    game = GuessNumber(highest=8, answers_as="text")
    assert game.reset(Task(0, "guess", "5"), 0) is None
    said = [game.step(Action(text)) for text in ("is it 4?", "6", "none", "5")]
    assert [step.messages for step in said] == ["higher\n", "lower\n", "number\n", ""]
    assert [(step.reward, step.done) for step in said] == [(0.0, False)] * 3 + [(1.0, True)]
    with pytest.raises(ValueError, match="not in 1 to 8"):
        game.reset(Task(0, "guess", "9"), 0)
