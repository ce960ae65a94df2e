"""Auto classes: a folder or a hub name to the family, and with a task to the class."""

from __future__ import annotations

import os
from typing import Any, ClassVar, NoReturn

from . import families
from .checkpoints.hub import Repository
from .classes import config_class, model_class
from .config import Config, read_config
from .errors import ConfigError, WrongClassError
from .families.family import Family

PLACES = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder", "proxies")


class AutoConfig:
    """The configuration of whatever family a checkpoint is of."""

    def __init__(self) -> None:
        _not_made(type(self).__name__)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Read config.json; the arguments and errors are those of `Config.from_pretrained`.

        Example:
            >>> AutoConfig.from_pretrained("glassformer/tiny-bert").model_type
            'bert'
        """
        kwargs.pop("trust_remote_code", None)  # code of a checkpoint never runs
        source = Repository.take(pretrained_model_name_or_path, kwargs)
        keys = read_config(pretrained_model_name_or_path if os.path.isfile(source.name) else source)
        return config_class(_model_type(keys)).from_dict(keys, **kwargs)

    @classmethod
    def for_model(cls, model_type: str, **kwargs: Any) -> Config:
        """A configuration of a family by its `model_type`, with `kwargs` over the defaults."""
        return config_class(model_type)(**kwargs)


class AutoModelBase:
    """What the Auto classes of models share; each stands for one task."""

    task: ClassVar[str]

    def __init__(self) -> None:
        _not_made(type(self).__name__)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """A model of the class that fits the checkpoint's family and this task; see `PreTrainedModel.from_pretrained`.

        Raises:
            WrongClassError: if the family has no class for the task; the message names those that it has.
            ConfigError: if the family is unknown.

        Example:
            >>> model = AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
        """
        config = kwargs.pop("config", None)
        if not isinstance(config, Config):
            places = {key: kwargs[key] for key in PLACES if key in kwargs}
            keys = read_config(Repository.take(config or pretrained_model_name_or_path, places))
            kind = config_class(_model_type(keys))
            if config is not None:
                kwargs["config"] = config
        else:
            kind, kwargs["config"] = type(config), config
        return cls._class(kind).from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_config(cls, config: Config, **kwargs: Any) -> Any:
        """A model with fresh weights; see `PreTrainedModel.from_config`."""
        kwargs.pop("trust_remote_code", None)
        return cls._class(type(config)).from_config(config, **kwargs)

    @classmethod
    def _class(cls, config: type[Config]) -> Any:
        family = families.family(config.model_type)
        return model_class(family.model_type, name_of(family, cls.task, cls.__name__))


def name_of(family: Family, task: str, caller: str) -> str:
    """The name of a family's class for a task.

    Raises:
        WrongClassError: if it has none.
    """
    if task in family.auto:
        return family.auto[task]
    for name, kind in family.classes.items():
        if kind.task == task:
            return name
    fitting = [
        auto for auto, kind in AUTO.items() if kind in {*family.auto, *(k.task for k in family.classes.values())}
    ]
    raise WrongClassError(
        f"{caller} does not fit: the checkpoint is of family {family.model_type!r}, which has no such class; "
        f"load it with {', '.join(fitting)}."
    )


def _model_type(keys: dict[str, Any]) -> str:
    if not isinstance(keys.get("model_type"), str):
        raise ConfigError(
            f"config.json of {keys['name_or_path']} has no model_type; the families here are "
            f"{', '.join(sorted(families.PAGES))}: add the one that fits, or use its class, such as BertModel."
        )
    return str(keys["model_type"])


def _not_made(name: str) -> NoReturn:
    raise WrongClassError(f"{name} only picks a class; call {name}.from_pretrained or {name}.from_config.")


# Auto class to task; the classes are made from it.
AUTO = {
    "AutoModel": "Model",
    "AutoModelForCausalLM": "CausalLM",
    "AutoModelForMaskedLM": "MaskedLM",
    "AutoModelForMultipleChoice": "MultipleChoice",
    "AutoModelForNextSentencePrediction": "NextSentencePrediction",
    "AutoModelForPreTraining": "PreTraining",
    "AutoModelForQuestionAnswering": "QuestionAnswering",
    "AutoModelForSeq2SeqLM": "Seq2SeqLM",
    "AutoModelForSequenceClassification": "SequenceClassification",
    "AutoModelForTokenClassification": "TokenClassification",
}


def auto_class(name: str) -> type[AutoModelBase]:
    """The Auto class of that name."""
    doc = f"The {AUTO[name]} class of whatever family a checkpoint is of."
    return type(name, (AutoModelBase,), {"task": AUTO[name], "__doc__": doc, "__module__": __package__})
