"""In which regions a vault has CloudKeys: what a list offers to narrow it by."""

from __future__ import annotations

from django.db import connection

from cloudkeys.models import CloudKey
from vault.models import Vault

# From region to region, each found at once in the index (vault, region); DISTINCT would read a row for each key.
_LEAPS = """
WITH RECURSIVE leap (region) AS (
    SELECT min(region) FROM cloudkeys_cloudkey WHERE vault_id = %s
    UNION ALL
    SELECT (SELECT min(each.region) FROM cloudkeys_cloudkey each WHERE each.vault_id = %s AND each.region > leap.region)
    FROM leap WHERE leap.region IS NOT NULL
)
SELECT region FROM leap WHERE region > '' LIMIT %s
"""


def regions_of(vault: Vault, most: int) -> list[str]:
    """The regions of the vault's keys, at most so many, in their order. One query, however many keys there are."""
    vault_id = CloudKey._meta.get_field("vault").get_db_prep_value(vault.pk, connection)
    with connection.cursor() as cursor:
        cursor.execute(_LEAPS, [vault_id, vault_id, most])
        return [region for (region,) in cursor.fetchall()]
