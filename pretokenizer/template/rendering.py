"""Run a chat template once and learn for every character which message it belongs to.

    template = CompiledTemplate(source, "my_template.jinja", {"bos_token": "<s>", "eos_token": "</s>"}, "2025-01-01")
    template.text([{"role": "user", "content": "Hi"}])             # what transformers' apply_chat_template gives
    template.fragments([{"role": "user", "content": "Hi"}])        # the same text in fragments

Data belongs to the message it comes from. The template's own text belongs to the message of the loop that prints it;
outside of such a loop it belongs to the message of the text before it. Text before the first message and the tools
belong to no message.

jinja2 is imported with the first template, because most programs that import this module render none.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pretokenizer.files.limits import BoundsError, bounded
from pretokenizer.template.expression import Messages, Recording, field_of
from pretokenizer.template.fragment import NO_MESSAGE, Fragment
from pretokenizer.template.traced_text import TracedText
from pretokenizer.template.traced_values import traced_value
from pretokenizer.template.tracer import Part, TracedMessage, Tracer

T = TypeVar("T")
_FAILURES = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError)


class TemplateFailureError(ValueError):
    """Raised when a template has wrong syntax, refuses a conversation or does not finish. It names the file."""


class TemplateLimitError(TemplateFailureError):
    """Raised when a template exceeds its limit of time or memory, so that a retry makes no sense."""


class CompiledTemplate:
    """A chat template, compiled twice: as plain Jinja, and to run on strings that know their origin."""

    def __init__(self, source: str, path: str, tokens: Mapping[str, str], date: str) -> None:
        """Compile the template with the Jinja text `source`. Raises TemplateFailureError for wrong syntax.

        `path` names the template in messages. `tokens` are template variables such as `bos_token`, and `date`
        (YYYY-MM-DD) is what `strftime_now` formats.
        """
        from pretokenizer.template.environment import ChatEnvironment
        from pretokenizer.template.tracing_environment import TracingEnvironment

        self.path, self.source, self._tokens = path, source, tokens
        self._tracing = TracingEnvironment(date)
        plain = ChatEnvironment(date)
        # Jinja computes constant expressions while it compiles, so the limits hold here too.
        self._plain = self._run(lambda: plain.from_string(source))
        self._traced = self._run(lambda: self._tracing.from_string(source))

    def text(self, messages: Messages, tools: Any = None, add_generation_prompt: bool = False) -> str:
        """Render a conversation with plain Jinja, which traces no origins, and return its text.

        Raises TemplateFailureError when the template fails, refuses the conversation or exceeds a limit of `bounded`.
        """
        variables = self._variables(messages, tools, add_generation_prompt)
        return self._run(lambda: self._plain.render(variables))

    def fragments(
        self,
        messages: Messages,
        tools: Any = None,
        add_generation_prompt: bool = False,
        recording: Recording | None = None,
    ) -> list[Fragment]:
        """Return a conversation's text in fragments, and add the template's questions to `recording`.

        Raises TemplateFailureError when the template fails, refuses the conversation or exceeds a limit of `bounded`.
        """
        tracer = self._tracing.tracer = Tracer(recording)
        traced_messages = [_traced_message(message, i, tracer) for i, message in enumerate(messages)]
        traced_tools = traced_value(tools, NO_MESSAGE, tracer)
        variables = self._variables(traced_messages, traced_tools, add_generation_prompt)
        try:
            return self._run(
                lambda: _fragments(self._traced.root_render_func(self._traced.new_context(variables)), tracer)
            )
        except TemplateLimitError:
            raise
        except TemplateFailureError:
            self.text(messages, tools, add_generation_prompt)  # fails with a message about plain strings
            raise

    def _variables(self, messages: Sequence[Any], tools: Any, add_generation_prompt: bool) -> dict[str, Any]:
        own = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": add_generation_prompt}
        return {**self._tokens, **own}

    def _run(self, render: Callable[[], T]) -> T:
        """Return what `render` returns under the limits of `bounded`. Its errors become TemplateFailureError."""
        import jinja2

        try:
            with bounded(self.path):
                return render()
        except BoundsError as error:
            raise TemplateLimitError(str(error)) from None
        except jinja2.TemplateSyntaxError as error:
            raise TemplateFailureError(f"{self.path}:{error.lineno}: not a Jinja template: {error.message}") from None
        except (jinja2.TemplateError, *_FAILURES) as error:
            raise TemplateFailureError(f"{self.path}: the template fails: {error}") from None


def _traced_message(message: Mapping[str, Any], number: int, tracer: Tracer) -> TracedMessage:
    """Return a message whose strings are traced as its data.

    The role stays plain text of the template, because it may become a part of a control token.
    """
    items = {}
    for key, value in message.items():
        if key == "role":
            items[key] = value
        elif isinstance(value, str):
            expression = field_of(number, key) if tracer.recording is not None else None
            items[key] = TracedText(value, (Part(value, number, expression),), tracer)
        else:
            items[key] = traced_value(value, number, tracer)
    return TracedMessage(items, number)


def _fragments(printed: Iterable[str], tracer: Tracer) -> list[Fragment]:
    """Return the printed texts as fragments, with the message that each belongs to."""
    found: list[Fragment] = []
    owner = NO_MESSAGE
    for text in printed:
        parts = text._parts if isinstance(text, TracedText) else (Part(text, None),)
        for part in parts:
            if part.message is not None:
                owner = part.message
            elif tracer.message is not None:
                owner = tracer.message
            found.append(Fragment(part.text, owner, part.message is not None, part.is_marked, part.expression))
    return found
