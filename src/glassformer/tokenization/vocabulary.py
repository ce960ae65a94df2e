"""The vocabulary of a tokenizer: tokens and their ids, the tokens that were added, and the special ones by role."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, overload

from tokenizers import AddedToken, Tokenizer

from glassformer.errors import TokenizerError

logger = logging.getLogger(__name__)

Token = str | AddedToken


class Vocabulary:
    """Tokens, ids and special tokens over a `tokenizers.Tokenizer`.

    A special token is an attribute by its role, `cls_token`, and its id is one too, `cls_token_id`; both can be set.
    Roles beyond the usual seven come with the checkpoint (`image_token`). Special tokens without a role are
    `extra_special_tokens`.
    """

    SPECIAL_TOKENS_ATTRIBUTES: list[str] = [  # noqa: RUF012 - an instance that gains a role gets a list of its own
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    ]
    _tokenizer: Tokenizer
    _special_tokens_map: dict[str, Token | None]
    _extra_special_tokens: list[Token]

    bos_token: Any
    bos_token_id: int | None
    eos_token: Any
    eos_token_id: int | None
    unk_token: Any
    unk_token_id: int | None
    sep_token: Any
    sep_token_id: int | None
    pad_token: Any
    pad_token_id: int | None
    cls_token: Any
    cls_token_id: int | None
    mask_token: Any
    mask_token_id: int | None
    extra_special_tokens: Any
    extra_special_tokens_ids: list[int | None]

    # Special tokens by role

    def _take_special_tokens(self, kwargs: dict[str, Any]) -> None:
        """Move the special tokens out of a constructor's keywords."""
        self._special_tokens_map = dict.fromkeys(self.SPECIAL_TOKENS_ATTRIBUTES)
        self._extra_special_tokens = []
        roles: dict[str, Any] = {}
        for key in [key for key in kwargs if key.endswith("_token")]:
            if key in self.SPECIAL_TOKENS_ATTRIBUTES:
                self._set_role(key, kwargs.pop(key))
            elif isinstance(kwargs[key], (str, AddedToken)):
                roles[key] = kwargs.pop(key)
        extra = kwargs.pop("extra_special_tokens", None)
        if isinstance(extra, dict):
            self._add_roles(extra)
        elif _is_tokens(extra or ()):
            self._extra_special_tokens = list(extra or ())
        else:
            raise TokenizerError("extra_special_tokens is a list of tokens, or a dictionary from role to token.")
        named = kwargs.pop("model_specific_special_tokens", None) or {}
        if not isinstance(named, dict):
            raise TokenizerError("model_specific_special_tokens is a dictionary from role to token.")
        self._add_roles({**roles, **named})

    def _add_roles(self, tokens: dict[str, Token]) -> None:
        """Give this instance further roles, such as `image_token`."""
        if tokens:
            self.SPECIAL_TOKENS_ATTRIBUTES = self.SPECIAL_TOKENS_ATTRIBUTES + list(tokens)
        for role, token in tokens.items():
            self._set_role(role, token)

    def _set_role(self, role: str, token: Token | None) -> None:
        if token is not None and not isinstance(token, (str, AddedToken)):
            raise TokenizerError(f"{role} is a {type(token).__name__}: pass a string or a tokenizers.AddedToken.")
        self._special_tokens_map[role] = token

    def __setattr__(self, key: str, value: Any) -> None:
        role = _role(key)
        if role in self.SPECIAL_TOKENS_ATTRIBUTES:
            self._set_role(role, self.convert_ids_to_tokens(value) if key != role and value is not None else value)
        elif role == "extra_special_tokens":
            tokens = [] if value is None else self.convert_ids_to_tokens(value) if key != role else value
            if not _is_tokens(tokens):
                raise TokenizerError(f"{key} is {value!r}: pass a list.")
            self._extra_special_tokens = list(tokens)
        else:
            super().__setattr__(key, value)

    def __getattr__(self, key: str) -> Any:
        role = _role(key)
        if role in self.SPECIAL_TOKENS_ATTRIBUTES:
            token = self.__dict__.get("_special_tokens_map", {}).get(role)
            if token is None:
                return None
            return str(token) if key == role else self.convert_tokens_to_ids(str(token))
        if role == "extra_special_tokens":
            tokens = [str(token) for token in self.__dict__.get("_extra_special_tokens", ())]
            return tokens if key == role else self.convert_tokens_to_ids(tokens)
        raise AttributeError(f"{type(self).__name__} has no attribute {key!r}.")

    @property
    def additional_special_tokens(self) -> list[str]:
        """The older name of `extra_special_tokens`."""
        return list(self.extra_special_tokens)

    @additional_special_tokens.setter
    def additional_special_tokens(self, tokens: Sequence[Token] | None) -> None:
        self.extra_special_tokens = tokens

    @property
    def pad_token_type_id(self) -> int:
        """The token type of padding: 0."""
        return 0

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens that have a role, by role."""
        return {
            role: str(self._special_tokens_map[role])
            for role in self.SPECIAL_TOKENS_ATTRIBUTES
            if self._special_tokens_map.get(role) is not None
        }

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once, those with a role first."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *map(str, self._extra_special_tokens)]))

    @property
    def all_special_ids(self) -> list[int | None]:
        """The ids of `all_special_tokens`."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each id that is special, else 0.

        Args:
            token_ids_0: Ids of shape (T,), special tokens included.
            token_ids_1: Must be left out.
            already_has_special_tokens: Must be true; to know the mask from the start, pass
                `return_special_tokens_mask=True` to the call instead.

        Raises:
            TokenizerError: The arguments say that the ids carry no special tokens yet.
        """
        if not already_has_special_tokens or token_ids_1 is not None:
            raise TokenizerError(
                "The mask is read off one complete sequence: pass it with already_has_special_tokens=True, "
                "or call the tokenizer with return_special_tokens_mask=True."
            )
        special = set(self.all_special_ids)
        return [int(int(index) in special) for index in token_ids_0]

    # Growing

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Token | Sequence[Token]],
        replace_extra_special_tokens: bool = True,
    ) -> int:
        """Give special tokens their roles, and add those that the vocabulary lacks.

        Args:
            special_tokens_dict: From role (`"pad_token"`, ..., or `"extra_special_tokens"`) to token (or tokens).
            replace_extra_special_tokens: Whether given extra tokens replace the present ones or join them.

        Returns:
            The number of new ids; the model's embedding must grow by as many.

        Raises:
            TokenizerError: A role does not exist, or a token is no token.
        """
        given = dict(special_tokens_dict)
        if "additional_special_tokens" in given and not given.get("extra_special_tokens"):
            given["extra_special_tokens"] = given.pop("additional_special_tokens")
        new: list[Token] = []
        for role, value in given.items():
            if role == "extra_special_tokens":
                if not _is_tokens(value):
                    raise TokenizerError(f"{role} is {value!r}: pass a list of strings or AddedTokens.")
                present = [] if replace_extra_special_tokens else self.extra_special_tokens
                tokens = [_special(token) for token in value if str(token) not in present]
                if replace_extra_special_tokens and tokens:
                    self._extra_special_tokens = list(tokens)
                else:
                    self._extra_special_tokens.extend(tokens)
                new.extend(tokens)
            elif role in self.SPECIAL_TOKENS_ATTRIBUTES:
                if not isinstance(value, (str, AddedToken)):
                    raise TokenizerError(f"{role} is {value!r}: pass a string or an AddedToken.")
                self._set_role(role, _special(value))
                new.append(_special(value))
            else:
                roles = ", ".join([*self.SPECIAL_TOKENS_ATTRIBUTES, "extra_special_tokens"])
                raise TokenizerError(f"{role!r} is no role of a special token: choose among {roles}.")
        return self.add_tokens(new, special_tokens=True)

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens that the vocabulary lacks, at its end; they are never split.

        Args:
            new_tokens: A token, or several. A `tokenizers.AddedToken` also says which spaces it takes along.
            special_tokens: Whether `skip_special_tokens` leaves them out of decoded text.

        Returns:
            The number of new ids.

        Example:
            >>> tokenizer.add_tokens(["glass", "box"])
            2
        """
        if not new_tokens:
            return 0
        tokens = list(new_tokens) if isinstance(new_tokens, (list, tuple)) else [new_tokens]
        if wrong := [token for token in tokens if not isinstance(token, (str, AddedToken))]:
            raise TokenizerError(f"{wrong[0]!r} is no token: pass strings or tokenizers.AddedTokens.")
        return self._tokenizer.add_special_tokens(tokens) if special_tokens else self._tokenizer.add_tokens(tokens)

    # Tokens and ids

    @property
    def vocab_size(self) -> int:
        """The number of tokens without the added ones; `len(tokenizer)` counts those too."""
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @property
    def vocab(self) -> dict[str, int]:
        """Every token with its id."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens, special ones included, by id."""
        return self._tokenizer.get_added_tokens_decoder()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The ids of the added tokens, in their order."""
        return {token.content: index for index, token in sorted(self.added_tokens_decoder.items())}

    def get_added_vocab(self) -> dict[str, int]:
        """The ids of the added tokens, in their order."""
        return self.added_tokens_encoder

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...

    @overload
    def convert_tokens_to_ids(self, tokens: list[str] | tuple[str, ...]) -> list[int | None]: ...

    def convert_tokens_to_ids(self, tokens: str | list[str] | tuple[str, ...]) -> int | list[int | None] | None:
        """The id of a token, or of each; that of the unknown token (`None` without one) for what is not there."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        index = self._tokenizer.token_to_id(tokens)
        if index is None and self.unk_token is not None:
            index = self._tokenizer.token_to_id(self.unk_token)
        return index

    def _id_of(self, token: Any) -> int:
        """The id of a token that texts cannot be built without."""
        index = None if token is None else self.convert_tokens_to_ids(str(token))
        if index is None:
            raise TokenizerError(f"The special token {token!r} is not in the vocabulary: pass another one.")
        return index

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str | None: ...

    @overload
    def convert_ids_to_tokens(self, ids: Sequence[int], skip_special_tokens: bool = False) -> list[str | None]: ...

    def convert_ids_to_tokens(
        self, ids: int | Sequence[int], skip_special_tokens: bool = False
    ) -> str | list[str | None] | None:
        """The token of an id, or of each; `None` for an id that the vocabulary lacks.

        Args:
            ids: An id, or ids of shape (T,): a list, an array or a tensor.
            skip_special_tokens: Whether special tokens are left out of a list.
        """
        if isinstance(ids, int):
            return self._tokenizer.id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._tokenizer.id_to_token(index) for index in map(int, ids) if index not in skipped]


def _role(key: str) -> str:
    """`cls_token_id` and `cls_token` are about the same role."""
    return key.removesuffix("_ids").removesuffix("_id") if key.endswith(("_id", "_ids")) else key


def _is_tokens(value: Any) -> TypeGuard[list[Token]]:
    return isinstance(value, (list, tuple)) and all(isinstance(token, (str, AddedToken)) for token in value)


def _special(token: Token) -> AddedToken:
    return token if isinstance(token, AddedToken) else AddedToken(token, normalized=False, special=True)
