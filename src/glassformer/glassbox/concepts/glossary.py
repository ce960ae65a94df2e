"""The glossary: what the textbook calls things, as data.

Where they are in the code, and what they give for a model, is found by `concepts` and `explain`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Concept:
    """A term of the textbook.

    Attributes:
        name: the term.
        sentence: what it is.
        also: other words for it.
        formula: how it is computed, where there is one.
        paper: where it is from.
        names: arguments, output fields, settings, configuration keys and classes that belong to it.
        places: patterns of the tensors that belong to it.
    """

    name: str
    sentence: str
    also: tuple[str, ...] = ()
    formula: str = ""
    paper: str = ""
    names: tuple[str, ...] = ()
    places: tuple[str, ...] = ()


def _concept(
    name: str, sentence: str, also: str = "", formula: str = "", paper: str = "", names: str = "", places: str = ""
) -> Concept:
    """A concept from words: `also` is parted by commas, `names` and `places` by spaces."""
    words = tuple(word.strip() for word in also.split(",") if word.strip())
    paper = f"https://arxiv.org/abs/{paper}" if paper else ""
    return Concept(name, sentence, words, formula, paper, tuple(names.split()), tuple(places.split()))


CONCEPTS = (
    _concept(
        "tokenisation",
        "A text is cut into tokens, the pieces of words that the vocabulary has.",
        also="tokens, tokenise, tokenizer, subword, BPE, byte-pair encoding, WordPiece, SentencePiece, unigram",
        paper="1508.07909",
        names="AutoTokenizer BatchEncoding AddedToken CharSpan TokenSpan TokenizerError PreTrainedTokenizerBase",
    ),
    _concept(
        "token ids",
        "Each token is a number, its row in the vocabulary; the texts of a batch are filled up to one length.",
        also="ids, indices, vocabulary, special tokens",
        names="input_ids decoder_input_ids vocab_size pad_token_id bos_token_id eos_token_id decoder_start_token_id",
        places="*.input_ids",
    ),
    _concept(
        "padding mask",
        "1 for a real token, 0 for one that only fills up its row, at which nobody looks.",
        also="mask, padding",
        formula="scores[t, s] = -∞ where mask[s] = 0",
        names="attention_mask decoder_attention_mask encoder_attention_mask attention_bias",
        places="*.mask *.memory_mask",
    ),
    _concept(
        "embedding",
        "Each token id becomes a vector, its row in a learned table.",
        also="token embedding, word embedding, input embedding, token vectors, weight tying",
        formula="x = E[id]",
        paper="1706.03762",
        names="inputs_embeds decoder_inputs_embeds token_type_ids type_vocab_size scale_embedding embd_pdrop "
        "tie_word_embeddings hidden_size n_embd d_model"
        " Embedding Table get_input_embeddings set_input_embeddings resize_token_embeddings tie_weights",
        places="*.embedding.tokens *.embedding.types *.embedding.output",
    ),
    _concept(
        "positions",
        "Attention knows no order: where a token stands is added to its vector, turns its queries and keys, or is "
        "added to the scores.",
        also="position, positional encoding, position embedding, rotary, RoPE, relative position bias",
        formula="x + P[t];  or q, k turned by t · θ;  or scores + b[s - t]",
        paper="2104.09864",
        names="position_ids max_position_embeddings n_positions rope_parameters relative_attention_num_buckets "
        "relative_attention_max_distance"
        " Positions Learned Rotary RelativeBuckets rotate",
        places="*.embedding.positions *.positions.cos *.positions.sin *.positions.bias",
    ),
    _concept(
        "encoder-only backbone",
        "Reads the whole text in both directions, and gives a state for each token.",
        also="encoder, encoder-only, bidirectional, backbone",
        paper="1810.04805",
        names="AutoModel Transformer Encoder Stack get_encoder base_model",
    ),
    _concept(
        "decoder-only LM",
        "Reads to the left only, and scores the next token at every position.",
        also="decoder, decoder-only, causal LM, causal language model, GPT, autoregressive model",
        formula="p(text) = Π p(token t | tokens before t)",
        paper="2005.14165",
        names="AutoModelForCausalLM is_decoder CausalLM Decoder get_decoder",
    ),
    _concept(
        "encoder-decoder LM",
        "An encoder reads a text, and a decoder that looks at its states writes another.",
        also="encoder-decoder, seq2seq, sequence to sequence",
        formula="p(answer | text) = Π p(token t | tokens before t, text)",
        paper="1409.3215",
        names="AutoModelForSeq2SeqLM is_encoder_decoder encoder_outputs decoder_input_ids num_decoder_layers "
        "decoder_layers encoder_layers"
        " Seq2SeqLM",
    ),
    _concept(
        "self-attention",
        "Each token takes a weighted mean of the values of the tokens it may look at.",
        also="attention, scaled dot-product attention, multi-head attention, masked self-attention",
        formula="softmax(Q Kᵀ · scale + mask) V",
        paper="1706.03762",
        names="scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn Attention",
        places="*.attention.input *.attention.mixed *.attention.output *.attention.o_proj",
    ),
    _concept(
        "queries, keys and values",
        "Three projections of each state, a head: what it looks for, what it is found by, what it gives.",
        also="query, key, value, QKV, heads, attention head, grouped-query attention, GQA, multi-query attention",
        formula="Q = x W_q,  K = x W_k,  V = x W_v",
        paper="2305.13245",
        names="num_attention_heads n_head num_heads encoder_attention_heads decoder_attention_heads head_dim d_kv "
        "num_key_value_heads attention_bias pretraining_tp",
        places="*.attention.queries *.attention.keys *.attention.values *.q_proj *.k_proj *.v_proj",
    ),
    _concept(
        "attention weights",
        "The share of its attention that each query gives each key; every row adds up to 1.",
        also="attention map, attention matrix, attention pattern, attention scores, alignment",
        formula="softmax(Q Kᵀ · scale + mask)",
        paper="1706.03762",
        names="output_attentions attentions encoder_attentions decoder_attentions attention_dropout attn_pdrop "
        "attention_probs_dropout_prob Maps attention_maps "
        "requested_maps picked selected",
        places="*.attention.scores *.attention.weights",
    ),
    _concept(
        "causal mask",
        "In a decoder no token may look to its right, at what it has to predict.",
        also="look-ahead mask, triangular mask, autoregressive mask",
        formula="scores[t, s] = -∞ for s > t",
        paper="1706.03762",
        names="is_decoder visible packed_segments",
        places="decoder.mask",
    ),
    _concept(
        "cross-attention weights",
        "The share of its attention that each token of the decoder gives each state of the encoder.",
        also="cross-attention, encoder-decoder attention, cross attention map",
        formula="softmax(Q_decoder K_encoderᵀ · scale + mask)",
        paper="1706.03762",
        names="cross_attentions add_cross_attention encoder_hidden_states encoder_attention_mask CrossAttention",
        places="*.cross_attention.* *.memory_mask *.after_cross_attention",
    ),
    _concept(
        "feed-forward",
        "Each token alone passes through a wider layer and back.",
        also="feedforward, FFN, MLP, feed-forward network, gated feed-forward, SwiGLU, activation",
        formula="W_down act(W_up x);  gated: W_down (act(W_gate x) · W_up x)",
        paper="2002.05202",
        names="intermediate_size n_inner d_ff encoder_ffn_dim decoder_ffn_dim hidden_act activation_function "
        "feed_forward_proj mlp_bias activation_dropout chunk_size_feed_forward"
        " FeedForward GatedFeedForward "
        "gelu_tanh quick_gelu laplace gelu_clipped relu_squared sqrt_softplus linear activation",
        places="*.feedforward.*",
    ),
    _concept(
        "residual stream and norm",
        "Every step adds to the states that run through all layers; norms keep their size.",
        also="residual, residual stream, residual connection, skip connection, norm, layer norm, layer normalisation, "
        "RMSNorm, pre-norm, post-norm",
        formula="x = after(x + out(f(before(x))))",
        paper="1607.06450",
        names="layer_norm_eps layer_norm_epsilon rms_norm_eps hidden_dropout_prob resid_pdrop dropout dropout_rate"
        " Layer Residual RMSNorm",
        places="*.layers.*.input *.after_attention *.after_cross_attention *_residual* *norm",
    ),
    _concept(
        "hidden states",
        "The states of all tokens before the first layer and after each.",
        also="hidden state, layer outputs, activations",
        names="output_hidden_states hidden_states encoder_hidden_states decoder_hidden_states num_hidden_layers "
        "n_layer num_layers encoder_layers decoder_layers num_decoder_layers encoder_layerdrop decoder_layerdrop "
        "requested",
        places="*.layers.*.input *.layers.[0-9]*.output",
    ),
    _concept(
        "token representations",
        "The last states: for each token a vector that knows the text around it.",
        also="contextual embedding, token vectors, features, token embedding output",
        names="last_hidden_state encoder_last_hidden_state AutoModel",
        places="encoder.output decoder.output",
    ),
    _concept(
        "pooling",
        "One vector for a text, made of the states of its tokens.",
        also="pooler, pooled output, sentence embedding, CLS token, text vector",
        formula="tanh(W x[0] + b)",
        paper="1810.04805",
        names="pooler_output summary_type summary_use_proj summary_activation summary_proj_to_labels "
        "summary_first_dropout"
        " Pooler last_token eos_token",
        places="pooler.output",
    ),
    _concept(
        "vocabulary scores",
        "A score for each token of the vocabulary; softmax makes probabilities of them.",
        also="logits, readout, LM head, unembedding, next-token scores, language modelling head, softmax",
        formula="logits = x W_vocabularyᵀ,  p = softmax(logits)",
        names="logits prediction_logits logits_to_keep AutoModelForMaskedLM AutoModelForPreTraining "
        "tie_word_embeddings scores"
        " MaskedLM PreTraining Linear Scaled Offset Transformed get_output_embeddings set_output_embeddings",
        places="logits",
    ),
    _concept(
        "class scores",
        "A score for each class, of a text or of each of its tokens.",
        also="classification, classifier, class logits, classification head, tagging, token classification",
        names="logits id2label label2id problem_type classifier_dropout seq_relationship_logits mc_logits mc_token_ids "
        "AutoModelForSequenceClassification AutoModelForTokenClassification AutoModelForMultipleChoice "
        "AutoModelForNextSentencePrediction"
        " SequenceClassification TokenClassification MultipleChoice NextSentencePrediction Dense DoubleHeads "
        "num_labels",
        places="logits mc_logits next_sentence_logits",
    ),
    _concept(
        "answer span",
        "For each token how well an answer starts and how well it ends there.",
        also="question answering, extractive question answering, span scores, start and end scores",
        paper="1606.05250",
        names="start_logits end_logits AutoModelForQuestionAnswering QuestionAnswering",
        places="start_logits end_logits",
    ),
    _concept(
        "labels",
        "What the scores should have said; -100 where it does not matter.",
        also="targets, ground truth, supervision, teacher forcing",
        names="labels shift_labels start_positions end_positions next_sentence_label mc_labels"
        " prepare_decoder_input_ids_from_labels shift_right",
    ),
    _concept(
        "training loss",
        "How surprised the model is by the labels, in nats: the mean of -log p(label).",
        also="loss, cross-entropy, negative log-likelihood, NLL, perplexity, objective",
        formula="-1/n Σ log softmax(logits)[label]",
        names="loss mc_loss num_items_in_batch labels problem_type cross_entropy",
        places="loss",
    ),
    _concept(
        "autoregressive generation",
        "The next token is chosen, put at the end of the text, and the model reads on, until an end.",
        also="generation, generate, decoding, greedy decoding, greedy search, text generation, stopping, "
        "speculative decoding, assisted decoding",
        formula="token t = argmax logits[t - 1]",
        names="sequences GenerationConfig GenerationMode max_length max_new_tokens min_length min_new_tokens max_time "
        "stop_strings eos_token_id pad_token_id bos_token_id decoder_start_token_id return_dict_in_generate "
        "output_scores output_logits scores"
        " generate compute_transition_scores can_generate StoppingCriteria StoppingCriteriaList",
    ),
    _concept(
        "KV cache",
        "Keys and values of the tokens so far are kept, so that each new token is read once.",
        also="cache, key-value cache, past",
        formula="K = [K_past; x W_k],  V = [V_past; x W_v]",
        names="past_key_values use_cache cache_implementation cache_config max_cache_len KVCache StaticCache "
        "QuantizedCache EncoderDecoderCache"
        " KVLayer",
    ),
    _concept(
        "score processing",
        "Before a token is chosen, its score may be changed or forbidden.",
        also="constrained decoding, watermark, guidance",
        names="repetition_penalty encoder_repetition_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size "
        "bad_words_ids sequence_bias suppress_tokens begin_suppress_tokens forced_bos_token_id forced_eos_token_id "
        "exponential_decay_length_penalty remove_invalid_values renormalize_logits guidance_scale watermarking_config "
        "LogitsProcessor LogitsProcessorList"
        " explain_generation GenerationExplanation "
        "BaseWatermarkingConfig WatermarkingConfig SynthIDTextWatermarkingConfig WatermarkDetector "
        "WatermarkDetectorOutput",
    ),
    _concept(
        "sampling",
        "The next token is drawn by its probability, often from the likeliest ones alone.",
        also="stochastic decoding, sample, random sampling",
        formula="token ~ softmax(logits / temperature)",
        paper="1904.09751",
        names="do_sample temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff seed generator",
    ),
    _concept(
        "beam search",
        "Several texts are kept at each step, those with the best sum of log-probabilities.",
        also="beam, beams, diverse beam search",
        formula="score = Σ log p(token) / length ** length_penalty",
        paper="1610.02424",
        names="num_beams num_beam_groups num_return_sequences length_penalty early_stopping diversity_penalty "
        "beam_indices sequences_scores constraints force_words_ids Constraint PhrasalConstraint DisjunctiveConstraint "
        "ConstraintListState",
    ),
    _concept(
        "streaming",
        "Each new token is given when it is made, before the text is whole.",
        also="stream, token stream, streamer",
        names="streamer StreamStep BaseStreamer TextStreamer TextIteratorStreamer AsyncTextIteratorStreamer stream",
    ),
)

# Other words for names of arguments, settings and keys.
SYNONYMS = {
    "softmax temperature": "temperature",
    "nucleus sampling": "top_p",
    "typical sampling": "typical_p",
    "beam width": "num_beams",
    "beam size": "num_beams",
    "draft model": "assistant_model",
    "prompt lookup": "prompt_lookup_num_tokens",
    "contrastive search": "penalty_alpha",
    "classifier-free guidance": "guidance_scale",
    "segment ids": "token_type_ids",
    "token types": "token_type_ids",
    "hidden size": "hidden_size",
    "model width": "hidden_size",
    "number of heads": "num_attention_heads",
    "number of layers": "num_hidden_layers",
    "number of labels": "num_labels",
    "context length": "max_position_embeddings",
    "vocabulary size": "vocab_size",
    "seed": "seed",
}
