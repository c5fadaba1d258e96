"""What an engine opens."""

from services.inference.factory import impatient
from services.settings import S3Settings, store_settings


def settings(**environment: str) -> S3Settings:
    found = store_settings("s3://bucket/prefix", impatient(environment))
    assert isinstance(found, S3Settings)
    return found


def test_a_bucket_is_given_up_on_early_unless_the_operator_says_otherwise() -> None:
    assert (settings().deadline, settings().read_timeout) == (10, 5)
    assert settings(DTI_S3_DEADLINE="30").deadline == 30
    assert settings(DTI_S3_DEADLINE="30").read_timeout == 5
