"""PreTrainedModel: what every model class of the peer's names adds to a Transformer or a head.

Loading and saving, the peer's order of arguments, token embeddings that can grow, and generation. The classes
themselves (`BertModel`, `LlamaForCausalLM`, ...) are made in `classes.py`, from the pages in `families/`.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from .checkpoints.hub import Repository
from .checkpoints.load import (
    BACKBONE,
    LoadingInfo,
    Naming,
    as_stored,
    holds_own_head,
    load,
    places_of,
    put,
    refuse_mismatched,
    tensors_of,
    uncollected,
)
from .checkpoints.options import attention, device_of, own_dtype, torch_dtype
from .checkpoints.save import save_weights
from .checkpoints.weights import Weights, open_weights
from .config import CONFIG_NAME, Config, Reader, read_config
from .engine import attach
from .engine.quantize import KEY, Scheme, quantize
from .errors import ConfigError, InputError, WeightsError, WrongClassError
from .families.family import Family, ModelClass
from .fresh import Undrawn, initialise, resized
from .glassbox.mixin import GlassBox
from .heads import TASKS
from .model import Transformer
from .structure.quantized import QuantizedTable, counts

if TYPE_CHECKING:
    from typing_extensions import Self


class PreTrainedModel(GlassBox, nn.Module):
    """A model with its configuration, files and calls; the base of all classes of the peer's names.

    Attributes:
        config: what it was built from.
        generation_config: the settings of `generate`, for classes that can.

    Example:
        >>> model = BertForSequenceClassification.from_pretrained("glassformer/tiny-bert")
        >>> model(**tokenizer("Hello", return_tensors="pt")).logits.shape
    """

    family: ClassVar[Family]
    kind: ClassVar[ModelClass]
    backbone_class: ClassVar[type[PreTrainedModel]]
    config_class: ClassVar[type[Config]]
    arguments: ClassVar[tuple[str, ...]]
    accepted: ClassVar[frozenset[str]]
    base_model_prefix: ClassVar[str]
    main_input_name: ClassVar[str] = "input_ids"
    config: Config

    def __init__(self, config: Config, **options: Any) -> None:
        if not isinstance(config, self.config_class):
            raise InputError(
                f"{type(self).__name__} is built from a {self.config_class.__name__}, but got a "
                f"{type(config).__name__}; to load a folder call {type(self).__name__}.from_pretrained."
            )
        kind, task = self.kind, self.kind.task
        if kind.part == "decoder":
            config.is_decoder, config.is_encoder_decoder = True, False
        elif kind.part == "encoder":
            config.use_cache, config.is_encoder_decoder = False, False
        if kind.num_labels is not None:
            config.num_labels = kind.num_labels
        if task == "Model":
            reader = Reader(config)
            spec = self.family.spec(reader)
            reader.refuse_unread(self.family.no_effect)
            part = {"whole": spec, "encoder": spec.encoder_only(), "decoder": spec.decoder_only()}[kind.part]
            super().__init__(part, **options)
        else:
            pooling = {} if TASKS[task].pools else {"add_pooling_layer": False}
            super().__init__(self.backbone_class(config, **pooling), config, **options)
        self.config = config
        attach(self)
        self.tie_weights()
        if self.can_generate():
            from .generation.config import GenerationConfig

            self.generation_config = GenerationConfig.from_model_config(config)
        if self.device.type != "meta":
            initialise(self, {name for name in tensors_of(self) if not name.startswith(BACKBONE)})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward pass; see the class it comes from for the arguments.

        Positional arguments have the peer's order (`self.arguments`). `use_cache`, `output_attentions`,
        `output_hidden_states` and `return_dict` default to the configuration's values.

        Raises:
            InputError: if an argument is unknown, given twice, or does not fit.
        """
        if len(args) > len(self.arguments):
            raise InputError(
                f"{type(self).__name__} takes {len(self.arguments)} arguments, but {len(args)} were given."
            )
        named = dict(zip(self.arguments, args))
        if twice := named.keys() & kwargs.keys():
            raise InputError(f"{sorted(twice)[0]} was given twice, by its place and by its name.")
        named.update(kwargs)
        for name in named.keys() - self.accepted:
            if named.pop(name) is not None:
                known = ", ".join(self.arguments)
                raise InputError(f"{type(self).__name__} takes no argument {name!r}; it takes {known}.")
        for name in ("output_attentions", "output_hidden_states"):
            if named.get(name) is None:
                named[name] = getattr(self.config, name)
        return_dict = named.pop("return_dict", None)
        if "use_cache" in self.arguments:
            labelled = any(named.get(name) is not None for name in ("labels", "start_positions"))
            if labelled and not self.kind.trains_cached:
                named["use_cache"] = False
            elif named.get("use_cache") is None:
                named["use_cache"] = self.config.use_cache
        out = super().forward(**named)
        return out.to_tuple() if (self.config.return_dict if return_dict is None else return_dict) is False else out

    # The parts

    @property
    def base_model(self) -> Transformer:
        """The Transformer without a head."""
        return cast(Transformer, getattr(self, "transformer", self))

    def get_encoder(self) -> nn.Module | None:
        """The encoder, which can be called alone; None if there is none."""
        return self.base_model.encoder

    def get_decoder(self) -> nn.Module | None:
        """The decoder, which can be called alone; None if there is none."""
        return self.base_model.decoder

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' floating-point type."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model has learned; tied ones count once.

        Args:
            only_trainable: leave out frozen ones.
            exclude_embeddings: leave out embedding tables.
        """
        tables = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)} if exclude_embeddings else set()
        counted = (p for p in self.parameters() if id(p) not in tables and (p.requires_grad or not only_trainable))
        packed = counts(self)
        return sum(packed.get(id(p), p.numel()) for p in counted)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """The bytes of the parameters, and of the buffers unless `return_buffers` is False; tied ones count once."""
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    # Token embeddings

    def get_input_embeddings(self) -> nn.Embedding:
        """The token table, a module with a weight (vocabulary, D)."""
        table: nn.Embedding = self.base_model.stacks[0].embedding.tokens
        return table

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Put another token table in the place of the old one, in all stacks."""
        self._refuse_if_quantized("get another token table")
        for stack in self.base_model.stacks:
            stack.embedding.tokens = value
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Linear | None:
        """The linear layer that scores the vocabulary, with a weight (vocabulary, D); None without such a head."""
        head = getattr(self, "lm_head", None)
        return head.linear if head is not None else None

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Put another linear layer in the place of the one that scores the vocabulary."""
        cast(Any, self).lm_head.linear = new_embeddings

    def tie_weights(self) -> None:
        """Make the vocabulary's scores use the token table, where the configuration says so."""
        head = self.get_output_embeddings()
        if head is not None and self.base_model.spec.tied:
            head.weight = self.base_model.stacks[-1].embedding.tokens.weight

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Change the size of the vocabulary; rows are added or removed at its end.

        Args:
            new_num_tokens: the new size; the old one if not given.
            pad_to_multiple_of: round the size up to a multiple of this.
            mean_resizing: draw new rows around the mean of the old ones, rather than as fresh weights are drawn
                (https://nlp.stanford.edu/~johnhew/vocab-expansion.html).

        Returns:
            The token table, changed in place.
        """
        self._refuse_if_quantized("get another vocabulary")
        table = self.get_input_embeddings()
        if new_num_tokens is None and pad_to_multiple_of is None:
            return table
        size = table.num_embeddings if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of:
            size = -(-size // pad_to_multiple_of) * pad_to_multiple_of
        std = self.base_model.spec.std
        for stack in self.base_model.stacks:
            tokens = stack.embedding.tokens
            if tokens.num_embeddings != size:
                tokens.weight = resized(tokens.weight, size, std("tokens"), mean_resizing)
                tokens.num_embeddings = size
                if tokens.padding_idx is not None and tokens.padding_idx >= size:
                    tokens.padding_idx = None
        head = self.get_output_embeddings()
        if head is not None:
            self.tie_weights()
            if head.weight.shape[0] != size:
                head.weight = resized(head.weight, size, std("lm_head"), mean_resizing)
            if head.bias is not None and head.bias.shape[0] != size:
                head.bias = resized(head.bias, size, 0.0, False)
            head.out_features = size
            readout = cast(Any, self).lm_head
            if hasattr(readout, "offset"):
                grown = nn.functional.pad(readout.offset, (0, max(0, size - readout.offset.shape[1])))
                readout.offset = grown[:, :size]
        self.config.vocab_size = size
        return table

    # Training

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or with False to evaluation.

        Raises:
            InputError: if the model is quantised, as such weights are not trained.
        """
        if mode:
            self._refuse_if_quantized("be trained")
        return super().train(mode)

    @property
    def is_quantized(self) -> bool:
        """Whether the matrices are held in 8 or 4 bits."""
        return isinstance(self.get_input_embeddings(), QuantizedTable)

    def _refuse_if_quantized(self, what: str) -> None:
        if self.is_quantized:
            raise InputError(
                f"{type(self).__name__} is quantised, and cannot {what}; load the original without quantization."
            )

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Recompute each layer in the backward pass instead of keeping what it computed: less memory, more time.

        Args:
            gradient_checkpointing_kwargs: of `torch.utils.checkpoint.checkpoint`; `use_reentrant` is False by default.
        """
        from torch.utils.checkpoint import checkpoint

        options = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        for stack in self.base_model.stacks:
            stack.checkpoint = partial(checkpoint, **options)

    def gradient_checkpointing_disable(self) -> None:
        """Keep again what each layer computes."""
        for stack in self.base_model.stacks:
            stack.checkpoint = None

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers are recomputed in the backward pass."""
        return any(stack.checkpoint is not None for stack in self.base_model.stacks)

    # Generation

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the class has `generate`."""
        return cls.kind.task in ("CausalLM", "Seq2SeqLM", "DoubleHeads")

    # Loading and saving

    @classmethod
    def from_config(cls, config: Config, dtype: str | torch.dtype | None = None, **options: Any) -> Self:
        """A model with fresh weights.

        Args:
            config: what to build.
            dtype: of the parameters; the configuration's if not given.
            **options: of the class, and `attn_implementation`.
        """
        attention(options)
        model = cls(config, **options)
        wanted = torch_dtype(dtype) if dtype is not None else config.dtype
        return model.to(wanted) if isinstance(wanted, torch.dtype) else model

    @classmethod
    @uncollected()
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        config: Config | str | os.PathLike[str] | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        use_safetensors: bool | None = None,
        quantization: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """A model with the weights of a folder, a bundled model or a hub repository, in evaluation mode.

        Args:
            pretrained_model_name_or_path: the folder or name; None with `config` and `state_dict`.
            *model_args: further arguments of the class.
            config: a configuration, or where to read it, in the place of the checkpoint's own.
            ignore_mismatched_sizes: draw weights of another shape anew instead of refusing them.
            output_loading_info: also return what was missing, unexpected or of another shape.
            use_safetensors: True refuses pickles, False reads only them.
            quantization: "int8" or "int4" holds the matrices in that form; None as the checkpoint has them, which may
                have been saved quantised.
            **kwargs: `dtype` or `torch_dtype` ("auto", the default, is the checkpoint's own), `device_map` (one
                device), `attn_implementation` (accepted; attention is the same), `variant`, `state_dict`, where to look
                (`revision, token, cache_dir, local_files_only, subfolder, force_download`), options of the class, and
                any key of the configuration.

        Returns:
            The model, or (model, loading info).

        Raises:
            MissingFileError: if a file is not there or cannot be reached.
            BrokenFileError: if one is malformed.
            WrongClassError: if the checkpoint is of another family.
            ConfigError: if the configuration asks for what the family does not compute.
            WeightsError: if a tensor has another shape.
            InputError: if a keyword is unknown.

        Example:
            >>> model = GPT2LMHeadModel.from_pretrained("glassformer/tiny-gpt2")
        """
        attention(kwargs)
        for name in ("trust_remote_code", "low_cpu_mem_usage", "weights_only", "_fast_init"):
            kwargs.pop(name, None)  # accepted for old snippets: code of a checkpoint never runs, loading is always lean
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or "auto"
        kwargs.pop("torch_dtype", None)
        device = device_of(kwargs.pop("device_map", None))
        variant, state = kwargs.pop("variant", None), kwargs.pop("state_dict", None)
        where = pretrained_model_name_or_path
        source = Repository.take(where, kwargs) if where is not None else None
        if isinstance(config, Config):
            keys = config.to_dict()
        elif (origin := config if config is not None else source) is not None:
            keys = read_config(origin)
        else:
            raise InputError("Loading needs a folder or name, or both config and state_dict.")
        model_type = keys.get("model_type", cls.family.model_type)
        if model_type != cls.family.model_type:
            raise WrongClassError(
                f"{where} holds a {model_type!r} model, but {cls.__name__} is for {cls.family.model_type!r}; "
                "use AutoModel.from_pretrained or another Auto class, which pick the class."
            )
        built, kwargs = cls.config_class.from_dict(keys, return_unused_kwargs=True, **kwargs)
        accepted = inspect.signature(Transformer.__init__).parameters if cls.kind.task == "Model" else {}
        if unknown := kwargs.keys() - accepted:
            raise InputError(
                f"from_pretrained takes no keyword {sorted(unknown)[0]!r}, and {type(built).__name__} has no such key."
            )
        if state is None and source is None:
            raise InputError("Loading without a folder or name needs a state_dict.")
        held, asked = Scheme.of(built), None if quantization is None else Scheme.named(quantization)
        if held is not None and asked not in (None, held):
            raise ConfigError(
                f"{where} is saved in {held.bits} bits, and cannot become {quantization!r}; leave quantization out, or "
                "load the original."
            )
        weights = state if state is not None else open_weights(cast(Repository, source), variant, use_safetensors)
        if isinstance(weights, Weights):
            weights.touch()
        if dtype == "auto":
            dtype = built.dtype or own_dtype(weights)
        dtype = torch_dtype(dtype)
        with torch.device("meta"), Undrawn():
            model = cls(built, *model_args, **kwargs)
        if held is not None:
            quantize(model, held, dtype)
        built.dtype = dtype
        info = model._fill(weights, dtype, str(where), ignore_mismatched_sizes)
        if asked is not None and held is None:
            quantize(model, asked, dtype)
            setattr(built, KEY, asked.to_dict())
        model.eval()
        if model.can_generate() and source is not None:
            from .generation.config import load_generation_config

            model.generation_config = load_generation_config(source, built)
        if device is not None:
            model.to(device)
        if not output_loading_info:
            return model
        found = {key: getattr(info, key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
        return model, {**found, "error_msgs": []}

    def _fill(
        self, weights: Weights | Mapping[str, Tensor], dtype: torch.dtype, source: str, ignore_mismatched_sizes: bool
    ) -> LoadingInfo:
        """Give a model on the meta device its weights, and draw those that are missing."""
        naming = self.naming()
        head = self.get_output_embeddings()
        if head is not None and self.base_model.spec.tied and holds_own_head(weights, naming):
            head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
        info = load(self, weights, naming, dtype, self.base_model.spec.keep_fp32)
        if not ignore_mismatched_sizes:
            refuse_mismatched(info, source)
        modules, places = (dict(self.named_modules()), places_of(self)) if info.fresh else ({}, {})
        for name in info.fresh:
            path, _, leaf = name.rpartition(".")
            if getattr(modules[path], leaf).dtype == torch.uint8:
                raise WeightsError(
                    f"{source} has no {name}, and a quantised weight cannot be drawn anew; load the original."
                )
            put(modules[path], leaf, torch.zeros(getattr(modules[path], leaf).shape, dtype=dtype), places)
        initialise(self, info.fresh)
        if missing := sorted(info.missing_keys):
            warnings.warn(
                f"{len(missing)} tensors of {type(self).__name__} are not in {source} and were drawn anew "
                f"({', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}); train them before use.",
                stacklevel=4,
            )
        return info

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = "50GB",
        variant: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write config.json, the weights, and generation_config.json where there is one, so that the peer reads them.

        The folder is never left half written: an interrupted save leaves what was there.

        Args:
            save_directory: made if needed.
            state_dict: tensors by their names here, in the place of the model's own.
            max_shard_size: bytes, or "5GB", above which the weights are split over several files.
            variant: `model.<variant>.safetensors` is written in the place of `model.safetensors`.
            **kwargs: `is_main_process=False` writes nothing; `safe_serialization` must be true.

        Raises:
            InputError: if the directory is a file or a keyword is unknown.
        """
        if not kwargs.pop("safe_serialization", True):
            raise InputError("safe_serialization=False would write a pickle, which is not done here; leave it out.")
        main = kwargs.pop("is_main_process", True)
        kwargs.pop("save_function", None)
        if kwargs:
            raise InputError(f"save_pretrained takes no keyword {sorted(kwargs)[0]!r}.")
        if not main:
            return
        self.config.architectures, self.config.dtype = [type(self).__name__], self.dtype
        if KEY in self.config and not self.is_quantized:
            delattr(self.config, KEY)  # the configuration of a quantised model, in one built anew
        files = {CONFIG_NAME: self.config.to_json_string()}
        if self.can_generate():
            files["generation_config.json"] = self.generation_config.to_saved_text()
        stored = as_stored(self, self.naming(), state_dict)
        save_weights(save_directory, stored, files, max_shard_size, variant)

    def naming(self) -> Naming:
        """What checkpoints call the tensors of this model: the names of its family's page, in both directions."""
        family = self.family
        prefixes = sorted({kind.prefix for kind in family.classes.values()} - {""})
        # An encoder that is loaded alone leaves the decoder in the file without a word.
        ignored = (*family.ignored, r"^(\w+\.)?decoder\.") if self.kind.part == "encoder" else family.ignored
        return Naming(family.rows(self.config), self.kind.prefix, prefixes, ignored)
