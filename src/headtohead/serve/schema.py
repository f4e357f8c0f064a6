"""What clients send and are sent: OpenAI's fields as far as they mean something here, and a few more.

Strict: a number in quotes is an error, and so is a field that isn't known, rather than being passed over in silence.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST_CHOICES = 16
MOST_STOPS = 4
MOST_MESSAGES = 256
MOST_LOGPROBS = 20


def _whole(value: Any) -> Any:
    """2.0 is a whole number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
Text = Annotated[str, Field(max_length=1 << 20)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31), WHOLE]], Field(min_length=1, max_length=1 << 16)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Asked(BaseModel):
    """A request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Asked):
    """include_usage: a last chunk without choices tells the usage."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class Writing(Asked):
    """What completions and chat completions share. `top_k`, `min_p` and `repetition_penalty` are not OpenAI's."""

    model: Annotated[str, Field(max_length=512)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31), WHOLE] | None = None
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES), WHOLE] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    seed: Annotated[int, WHOLE] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    presence_penalty: Annotated[int, Field(ge=0, le=0), WHOLE] | None = None
    frequency_penalty: Annotated[int, Field(ge=0, le=0), WHOLE] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, as a list."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionRequest(Writing):
    """POST /v1/completions. `prompt`: texts, or ids of their tokens, one or several."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=64)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=64)]
    )
    max_tokens: Annotated[int, Field(ge=1, le=2**31), WHOLE] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS), WHOLE] | None = None


class TextPart(Asked):
    """One piece of a message; text is what there is."""

    type: Literal["text"]
    text: Text


class Message(Asked):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=64)]
    name: Annotated[str, Field(max_length=512)] | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Writing):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31), WHOLE] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31), WHOLE] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS), WHOLE] | None = None


class EmbeddingRequest(Asked):
    """POST /v1/embeddings."""

    model: Annotated[str, Field(max_length=512)]
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=64)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=64)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None


# ------------------------------------------------------------------------------------------------------------


class ErrorFields(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """What every error is."""

    error: ErrorFields


class Usage(BaseModel):
    """Tokens; and by the description of the network, FLOPs and bytes of keys and values that were kept."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int
    flops: int | None = None
    cache_bytes: int | None = None


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    text: str
    index: int
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]


class Said(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    index: int
    message: Said
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Embeddings(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: Usage


class Card(BaseModel):
    """One model. headtohead: what it is (`ServedModel.about`)."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "headtohead"
    headtohead: dict[str, Any]


class Cards(BaseModel):
    object: Literal["list"] = "list"
    data: list[Card]


class Health(BaseModel):
    status: Literal["ok", "stopping"]
