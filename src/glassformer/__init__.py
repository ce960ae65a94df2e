"""glassformer: pretrained Transformers through the calls you know, with everything inside in plain sight.

Every public name is imported on first use, so that `import glassformer` costs nothing and tokenizing never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Module to the names that it gives.
_MODULES = {
    "auto": "AutoConfig",
    "cache": "EncoderDecoderCache KVCache QuantizedCache StaticCache",
    "config": "Config",
    "engine.report": "Programs programs show_config",
    "errors": (
        "GlassformerError MissingFileError BrokenFileError ConfigError WrongClassError WeightsError InputError "
        "RangeError TokenizerError GenerationError MissingExtraError"
    ),
    "glassbox.concepts.answers": "Explanation explain",
    "glassbox.trace.choices": "Candidates",
    "glassbox.concepts.concepts": "Concepts concepts",
    "glassbox.trace.difference": "Difference",
    "glassbox.analyses.attribution": "LogitAttribution direct_logit_attribution",
    "glassbox.analyses.entropy": "AttentionEntropy attention_entropy",
    "glassbox.analyses.gradients": "IntegratedGradients integrated_gradients",
    "glassbox.intervene": "Interventions intervene",
    "glassbox.analyses.lens": "LogitLens logit_lens",
    "glassbox.listen": "places",
    "glassbox.page.page": "Page page",
    "glassbox.analyses.losses": "TokenLosses token_losses",
    "glassbox.analyses.rollout": "AttentionRollout attention_rollout",
    "glassbox.structure.structure": "Structure",
    "glassbox.trace.trace": "Trace trace",
    "generation.config": "GenerationConfig GenerationMode",
    "generation.constraints": "Constraint ConstraintListState DisjunctiveConstraint PhrasalConstraint",
    "generation.explain": "GenerationExplanation",
    "generation.guidance": "UnbatchedClassifierFreeGuidanceLogitsProcessor",
    "generation.outputs": (
        "GenerateBeamDecoderOnlyOutput GenerateBeamEncoderDecoderOutput GenerateDecoderOnlyOutput "
        "GenerateEncoderDecoderOutput"
    ),
    "generation.processors": (
        "LogitsProcessor LogitsProcessorList EncoderNoRepeatNGramLogitsProcessor "
        "EncoderRepetitionPenaltyLogitsProcessor ExponentialDecayLengthPenalty ForcedBOSTokenLogitsProcessor "
        "ForcedEOSTokenLogitsProcessor InfNanRemoveLogitsProcessor LogitNormalization MinLengthLogitsProcessor "
        "MinNewTokensLengthLogitsProcessor NoBadWordsLogitsProcessor NoRepeatNGramLogitsProcessor "
        "PrefixConstrainedLogitsProcessor RepetitionPenaltyLogitsProcessor SequenceBiasLogitsProcessor "
        "SuppressTokensAtBeginLogitsProcessor SuppressTokensLogitsProcessor"
    ),
    "generation.stopping": (
        "StoppingCriteria StoppingCriteriaList EosTokenCriteria MaxLengthCriteria MaxTimeCriteria StopStringCriteria"
    ),
    "generation.streamers": "AsyncTextIteratorStreamer BaseStreamer TextIteratorStreamer TextStreamer",
    "generation.streaming": "StreamStep",
    "generation.synthid": "SynthIDTextWatermarkLogitsProcessor",
    "generation.warpers": (
        "EpsilonLogitsWarper EtaLogitsWarper MinPLogitsWarper TemperatureLogitsWarper TopHLogitsWarper "
        "TopKLogitsWarper TopPLogitsWarper TypicalLogitsWarper"
    ),
    "generation.watermark": "WatermarkDetector WatermarkDetectorOutput WatermarkLogitsProcessor",
    "generation.watermark_config": "BaseWatermarkingConfig SynthIDTextWatermarkingConfig WatermarkingConfig",
    "model": "Transformer",
    "outputs": "ModelOutput",
    "pretrained": "PreTrainedModel",
    "spec": "Spec",
    "structure.maps": "Maps",
    "tokenization": (
        "AddedToken AutoTokenizer BatchEncoding BartTokenizer BartTokenizerFast BertTokenizer BertTokenizerFast "
        "CharSpan GPT2Tokenizer GPT2TokenizerFast LlamaTokenizer LlamaTokenizerFast PreTrainedTokenizer "
        "PreTrainedTokenizerBase PreTrainedTokenizerFast T5Tokenizer T5TokenizerFast TokenSpan"
    ),
}
_AUTO = (
    "AutoModel AutoModelForCausalLM AutoModelForMaskedLM AutoModelForMultipleChoice AutoModelForNextSentencePrediction "
    "AutoModelForPreTraining AutoModelForQuestionAnswering AutoModelForSeq2SeqLM AutoModelForSequenceClassification "
    "AutoModelForTokenClassification"
)
# model_type to the class names of its page, which a test holds against the pages.
_FAMILIES = {
    "bart": (
        "BartConfig BartModel BartDecoder BartForCausalLM BartForConditionalGeneration BartForQuestionAnswering "
        "BartForSequenceClassification"
    ),
    "bert": (
        "BertConfig BertModel BertForMaskedLM BertForMultipleChoice BertForNextSentencePrediction BertForPreTraining "
        "BertForQuestionAnswering BertForSequenceClassification BertForTokenClassification BertLMHeadModel"
    ),
    "gpt2": (
        "GPT2Config GPT2Model GPT2DoubleHeadsModel GPT2ForQuestionAnswering GPT2ForSequenceClassification "
        "GPT2ForTokenClassification GPT2LMHeadModel"
    ),
    "llama": (
        "LlamaConfig LlamaModel LlamaForCausalLM LlamaForQuestionAnswering LlamaForSequenceClassification "
        "LlamaForTokenClassification"
    ),
    "t5": (
        "T5Config T5Model T5EncoderModel T5ForConditionalGeneration T5ForQuestionAnswering T5ForSequenceClassification "
        "T5ForTokenClassification"
    ),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}
_MADE = {name: model_type for model_type, names in _FAMILIES.items() for name in names.split()}
# Rooms that are public as a whole.
_ROOMS = {"plot": "glassbox.plot"}
# The peer's other names for the same things.
_ALIASES = {"Cache": "KVCache", "DynamicCache": "KVCache", "PretrainedConfig": "Config", "PreTrainedConfig": "Config"}

__all__ = sorted([*_HOMES, *_MADE, *_AUTO.split(), *_ALIASES, *_ROOMS])


def __getattr__(name: str) -> Any:
    if name in _ALIASES:
        found = __getattr__(_ALIASES[name])
    elif name in _ROOMS:
        found = import_module(f".{_ROOMS[name]}", __name__)
    elif name in _HOMES:
        found = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    elif name in _MADE:
        classes = import_module(".classes", __name__)
        made = _MADE[name]
        found = classes.config_class(made) if name.endswith("Config") else classes.model_class(made, name)
    elif name in _AUTO.split():
        found = import_module(".auto", __name__).auto_class(name)
    else:
        raise AttributeError(f"glassformer has no {name!r}.")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
