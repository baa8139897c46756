"""What looks like a secret or a person's data does not get into a student."""

import pytest

from senryu.distill.prompts.redaction import redact_text, redacted
from senryu.server.conversation.messages import (
    Conversation,
    ImageBlock,
    Message,
    NoteBlock,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)

# Put together here, so that no search for leaked keys stops at this file.
KEY = "sk-" + "ant-api03-Zx81kQ0pLm7Rt5Vw2Ys9"
WEB_TOKEN = "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxIn0.c2lnbmF0dXJlMTIz"
PEM = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow==\n-----END RSA " + "PRIVATE KEY-----"
FOLDER, MAC_FOLDER = "/" + "home/", "/" + "Users/"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("ask ada.l+x@mail.lovelace.example now", "ask [e-mail] now"),
        ("call +49 30 901820 today", "call [phone number] today"),
        ("call +1 (555) 010-4477.", "call [phone number]."),
        ("call (030) 901820", "call [phone number]"),
        ("call 555-010-4477", "call [phone number]"),
        ("call 020 7946 0958", "call [phone number]"),
        (f"my key is {KEY}.", "my key is [secret]"),
        ("token gh" + "p_16C7e42F292c6912E7710c838347Ae178B4a", "token [secret]"),
        ("AKIA" + "IOSFODNN7EXAMPLE and so on", "[secret] and so on"),
        ("Authorization: Bearer abcdefghijklmnop123", "Authorization: Bearer [secret]"),
        (f"jwt {WEB_TOKEN}", "jwt [secret]"),
        ("export DB_PASSWORD=hunter22", "export DB_PASSWORD=[secret]"),
        ('{"api_key": "abcdef123"}', '{"api_key": "[secret]"}'),
        ("postgres://app:pa55word@db.example/x", "postgres://[secret]@db.example/x"),
        (f"it is\n{PEM}\nhelp", "it is\n[private key]\nhelp"),
        ("pay with 4111 1111 1111 1111 soon", "pay with [card number] soon"),
        ("pay with 5500-0000-0000-0004", "pay with [card number]"),
        ("ping 203.0.113.9:80", "ping [IP address]:80"),
        ("ping 2001:db8:0:0:1:0:0:1 twice", "ping [IP address] twice"),
        (f"open {FOLDER}maria/thesis.tex", f"open {FOLDER}[user]/thesis.tex"),
        (f"open {MAC_FOLDER}maria/x", f"open {MAC_FOLDER}[user]/x"),
        ("open C:\\Users\\maria\\x", "open C:\\Users\\[user]\\x"),
        ("hash 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b here", "hash [secret] here"),
        ("use dGhpc0lzQTEyVmVyeTM0U2VjcmV0S2V5OQ==", "use [secret]"),
        ("export DB_PASS=hunter22x", "export DB_PASS=[secret]"),
        ("PWD=hunter2222", "PWD=[secret]"),
        ("pass: 12345678", "pass: [secret]"),
        ("?token=abcdef123456", "?token=[secret]"),
        ("{apiToken: 'abc123def'}", "{apiToken: '[secret]'}"),
        ("Authorization: Token 9944b09199c62bcf", "Authorization: Token [secret]"),
        ('"Authorization": "9944b09199c62bcf"', '"Authorization": "[secret]"'),
        ('password: "ab,defgh1234"', 'password: "[secret]"'),
        ("password=ab,defgh1234 and", "password=[secret] and"),
        ('password = "correct horse battery"', 'password = "[secret]"'),
        ("password: str = 'correct horse'", "password: str = '[secret]'"),
        (r"{\"password\": \"it\\\"s me, 1\"}", r"{\"password\": \"[secret]\"}"),
        ("**Password:** hunter22", "**Password:** [secret]"),
        ("my password is hunter22, and", "my password is [secret], and"),
        ("mysql --password hunter22 -u me", "mysql --password [secret] -u me"),
        ("client_secret=[abc]defghij", "client_secret=[secret]"),
        ("SSN 123-45-6789.", "SSN [social security number]."),
        ("key a8f3k2m9x7q4w1z6b5n0c8v2j4h6t1r9", "key [secret]"),
        ("totp JBSWY3DPEHPK3PXP", "totp [secret]"),
        ("to DE89 3704 0044 0532 0130 00 now", "to [account number] now"),
        ("to GB82WEST12345698765432 OK", "to [account number] OK"),
        ("to NL91 ABNA 0417 1643 00 A1 3", "to [account number] A1 3"),
    ],
)
def test_it_is_blanked(text: str, clean: str) -> None:
    """One placeholder for one secret, and the words around it stay."""
    assert redact_text(text) == (clean, 1)


@pytest.mark.parametrize(
    "text",
    [
        "Why is the sky blue? It was on 2024-05-17 at 12:30:45.",
        "Order 4111 1111 1111 1112 has no valid check digit.",
        "The server listens on 127.0.0.1:8765, or 0.0.0.0, or ::1.",
        "Version 3.11.9 of Python, released 03/04/2023, page 100-200.",
        "std::vector<int>::iterator and a::b::c",
        "pi is 3.14159265358979 and e is 2.718281828",
        "getUserByIdFromDatabaseService() in src/components/navigation/SideBar.tsx",
        "The password is wrong, what can I do?",
        "It costs 1,234,567 euros in 2024, 2025 and 2026.",
        "internationalization_of_everything_in_the_house",
        "12 + 30 - 7 * 1000000 = ?",
        "@decorator and user@ and @everyone",
        "A basic understanding of bearer responsibilities",
        "PWD=/srv/app and max_token: 128000 and token = tokenizer.next_token()",
        "token = words[1].strip() and token: int64(x)",
        "part DE88 ABCD EFGH IJKL MNOP 99, whose check digits are wrong",
        "photo-2024-05-17-at-12-30-45-of-the-garden.png",
        "The password is in the drawer; the token was revoked yesterday.",
        "bypass: 1234567 and compass=12345678",
        "On 2024-01-15 and 555-1234, 123-45-67890, 123-45-678",
        "use_the_x86_64_build_of_libfoo_v2_here",
    ],
)
def test_other_words_stay(text: str) -> None:
    """Dates, numbers, versions, code: a prompt is no use full of holes."""
    assert redact_text(text) == (text, 0)


def test_every_part_of_a_conversation_is_looked_at() -> None:
    """Texts, notes, thoughts, inputs of calls at any depth, results, descriptions. Ids and names
    stay, so that calls and results still belong together."""
    mail, gone = "a@b.example", "[e-mail]"
    tool = Tool(name="mail", description=f"Writes to {mail}.", input_schema={"type": "object"})
    clean_tool = Tool(name="mail", description=f"Writes to {gone}.", input_schema=tool.input_schema)
    call_id = "toolu_01A09q90qw90lq917835lq9"

    def talk(mail: str, tool: Tool, secret: str) -> Conversation:
        text = TextBlock(text=mail)
        given = {"to": [mail, {"cc": mail}], "count": 3, "password": secret}
        result = (text, ToolDefinitionBlock(tool=tool), ImageBlock(media_type="x", data=b"y"))
        return Conversation(
            system=(text,),
            tools=(tool,),
            messages=(
                Message(role="user", content=(text, NoteBlock(text=mail))),
                Message(
                    role="assistant",
                    content=(
                        ThinkingBlock(thinking=mail),
                        ToolUseBlock(id=call_id, name="mail", input=given),
                    ),
                ),
                Message(
                    role="user",
                    content=(ToolResultBlock(tool_use_id=call_id, content=result),),
                ),
            ),
        )

    clean, blanked = redacted(talk(mail, tool, "hunter22"))
    assert clean == talk(gone, clean_tool, "[secret]")
    assert blanked == 10


def test_blanking_twice_changes_nothing() -> None:
    """A placeholder is no secret."""
    text = f"ada@lovelace.example, password: hunter22, {KEY}, {FOLDER}ada/x, +49 30 901820"
    once, count = redact_text(text)
    assert count == 5
    assert redact_text(once) == (once, 0)


def test_a_long_line_is_read_in_no_time() -> None:
    """No pattern tries the same characters again and again."""
    bits = ("a", "1 ", "a.", "x@", "1:", "secret", "eyJ-", "://", "://a:", "+1", "sk-", "bearer ")
    bits += ("-", 'secret="', "token=", "AB12 ", "A2", "password is ", "pass: str ", "1-", "\\")
    for bit in bits:
        redact_text(bit * (100_000 // len(bit)))


def test_a_tools_schema_and_examples_are_cleaned_and_its_names_stay() -> None:
    """What its properties are called is no secret, what they are by default is; a validator reads
    the rest as before."""

    def tool(mail: str, card: object, secret: object) -> Tool:
        return Tool(
            name="pay",
            description=f"Ask {mail}.",
            input_schema={
                "type": "object",
                "title": f"For {mail}",
                "properties": {
                    "to": {"type": "string", "default": mail, "description": f"As {mail}"},
                    "password": {"type": "string", "minLength": 6, "default": secret},
                    "card": {"anyOf": [{"enum": [card, 5]}, {"const": mail}]},
                    "title": {"type": "string", "examples": [mail, {"secret": secret}]},
                    "deep": {"type": "array", "items": {"$ref": "#/$defs/deep"}},
                },
                "$defs": {"deep": {"pattern": "^.{3,9}@.*$", "examples": [[mail]]}},
                "required": ["to", "password"],
                "additionalProperties": False,
            },
            input_examples=({"to": mail, "card": card, "password": secret},),
            strict=True,
        )

    def asked(tool: Tool) -> Conversation:
        hello = (Message(role="user", content=(TextBlock(text="Hello"),)),)
        return Conversation(tools=(tool,), messages=hello)

    clean, blanked = redacted(asked(tool("a@b.example", 4111111111111111, "hunter22")))
    assert clean == asked(tool("[e-mail]", "[card number]", "[secret]"))
    assert blanked == 13
    assert redacted(clean) == (clean, 0)


def test_secrets_among_a_calls_numbers_and_names_are_blanked() -> None:
    """Whatever else is a number stays one."""
    given = {
        "pin_password": 12345678,
        "card": 4111111111111111,
        "count": 3,
        "ratio": 0.25,
        "fast": True,
        "none": None,
        "a@b.example": "reads",
        "credentials": {"user": "maria1", "key": "x"},
        "token": "abc123def",
        "max_tokens": 128000,
        "next_token": "word",
    }
    call = ToolUseBlock(id="t", name="x", input=given)
    told = Conversation(messages=(Message(role="assistant", content=(call,)),))
    (clean,), blanked = redacted(told)[0].messages[0].content, redacted(told)[1]
    assert isinstance(clean, ToolUseBlock)
    assert clean.input == {
        "pin_password": "[secret]",
        "card": "[card number]",
        "count": 3,
        "ratio": 0.25,
        "fast": True,
        "none": None,
        "[e-mail]": "reads",
        "credentials": {"user": "[secret]", "key": "x"},
        "token": "[secret]",
        "max_tokens": 128000,
        "next_token": "word",
    }
    assert blanked == 5
