"""Making a key set in steps: each step checked without making anything, a summary, and then AWS's own steps, value by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.conf import settings

from cloudkeys import naming
from cloudkeys.models import AwsStoreLink, CspAccount, KeySet, XksCredential, XksKeyStore
from cloudkeys.schedules import Expiration, Schedule, parse_expiration, parse_schedule
from cloudkeys.services.hsm_choice import check_choice
from cloudkeys.services.hsm_replication import WORDS as REPLICATION_WORDS
from cloudkeys.services.rows import find_group, require_free_name, require_live_vault
from vault.actors import Actor
from vault.errors import DomainError, ValidationFailed
from vault.models import HsmConnection, Vault
from vault.permissions import Permission

STEPS = ("what", "account", "store", "protection", "schedule")
_FIELDS: dict[str, tuple[str, ...]] = {
    "what": ("type", "name", "description", "group"),
    "account": ("csp_account",),
    "store": ("use_as_external_key_store", "path_prefix", "links"),
    "protection": ("protection", "hsm_connection", "hsm_replication"),
    "schedule": ("rotation_schedule", "expiration"),
}
PROTECTIONS: dict[str, str] = {
    KeySet.Protection.SOFTWARE: (
        "Keys are kept encrypted in Keystead's database, under a key of the vault, under the installation's root key. "
        "Whoever has the database and the root key has the keys."
    ),
    KeySet.Protection.HSM_WRAPPED: (
        "Keys are encrypted by a key that never leaves an HSM. Without the HSM nobody opens them; in use they are in the "
        "memory of the XKS workers."
    ),
    KeySet.Protection.HSM_RESIDENT: (
        "Keys are made in an HSM and never leave it: every encrypt and decrypt is done inside. The safest, and the slowest."
    ),
}
PROTECTION_FACTS: dict[str, tuple[tuple[str, str], ...]] = {
    KeySet.Protection.SOFTWARE: (
        ("Speed", "full; no HSM is asked."),
        ("An HSM fails", "nothing happens to these keys."),
        ("What AWS sees", "an external key. It is not told how it is protected."),
    ),
    KeySet.Protection.HSM_WRAPPED: (
        ("Speed", "full; the HSM is asked once when a node loads the set's keys, never for a request."),
        (
            "The HSM fails",
            "running nodes go on. A node that starts refuses these keys until it is back. Lost for ever without a backup: so are the keys.",
        ),
        ("What AWS sees", "the same as with software."),
    ),
    KeySet.Protection.HSM_RESIDENT: (
        (
            "Speed",
            "that of the HSM and of the network to it: two calls for each encrypt, one for each decrypt.",
        ),
        (
            "The HSM fails",
            "AWS is refused until a member answers again. Lost for ever without a backup: so are the keys, and all data under them.",
        ),
        ("What AWS sees", "the same, and longer answers while the HSM is busy."),
    ),
}
"""What each protection costs, in plain words: (about, what is said)."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with one field of one step."""

    step: str
    field: str
    message: str
    cure: str


@dataclass(frozen=True)
class Checked:
    """The outcome: what is wrong, and what would be made, in plain words (label, value)."""

    problems: list[Problem] = field(default_factory=list)
    summary: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with the steps that were looked at."""
        return not self.problems


def check_key_set(
    actor: Actor, vault: Vault, values: Mapping[str, Any], steps: Sequence[str] = STEPS
) -> Checked:
    """Check the fields of these steps as `create_key_set` would, together; nothing is made.

    `values` has the arguments of create_key_set, links as mappings of LinkRequest's fields. A step's own fields only are
    looked at, so that a wizard can ask step by step. Raises PermissionDenied, NotFound, Conflict for a disabled vault.
    """
    actor.require(Permission.KEY_SETS_MANAGE, vault)
    require_live_vault(vault)
    unknown = sorted(set(values) - {name for names in _FIELDS.values() for name in names})
    if unknown:
        raise ValidationFailed("This is not known here.", field=unknown[0], cure="Leave it out.")
    account = _account(actor, vault, values)
    checks = {
        "what": lambda: _check_what(vault, values),
        "account": lambda: _check_account(actor, account),
        "store": lambda: _check_store(values, account if isinstance(account, CspAccount) else None),
        "protection": lambda: _check_protection(vault, values),
        "schedule": lambda: _check_schedule(values),
    }
    problems: list[Problem] = []
    for step in steps:
        if step not in checks:
            raise ValidationFailed(
                "There is no such step.", field="steps", cure=f"Give some of {', '.join(STEPS)}."
            )
        problems += [Problem(step, error.field, error.message, error.cure) for error in checks[step]()]
    found = account if isinstance(account, CspAccount) else None
    return Checked(problems, _summary(values, found) if not problems else [])


def _errors(*checks: Any) -> list[DomainError]:
    found: list[DomainError] = []
    for check in checks:
        try:
            check()
        except DomainError as error:
            found.append(error)
    return found


def _account(actor: Actor, vault: Vault, values: Mapping[str, Any]) -> CspAccount | DomainError | None:
    given = values.get("csp_account")
    if given in (None, ""):
        return None
    try:
        account = CspAccount.objects.filter(vault=vault, pk=UUID(str(given))).first()
    except ValueError:
        account = None
    if account is None:
        return ValidationFailed(
            "There is no such CSP account in this vault.",
            field="csp_account",
            cure="Add one, or pick one of the vault's.",
        )
    return account


def _check_what(vault: Vault, values: Mapping[str, Any]) -> list[DomainError]:
    def name() -> None:
        require_free_name(KeySet, vault, naming.check_name(str(values.get("name", ""))))

    def description() -> None:
        if len(str(values.get("description", ""))) > 1000:
            raise ValidationFailed(
                "A description has at most 1,000 characters.", field="description", cure="Shorten it."
            )

    def kind() -> None:
        if values.get("type", KeySet.Type.AWS) not in KeySet.Type.values:
            raise ValidationFailed("This type of keys is not offered.", field="type", cure="Give AWS.")

    def group() -> None:
        given = values.get("group")
        try:
            find_group(vault, UUID(str(given)) if given else None)
        except ValueError:
            raise ValidationFailed(
                "This is no group.", field="group", cure="Pick one of the vault's groups."
            ) from None

    return _errors(name, description, kind, group)


def _check_account(actor: Actor, account: CspAccount | DomainError | None) -> list[DomainError]:
    if isinstance(account, DomainError):
        return [account]
    if account is None:
        return []
    return _errors(lambda: actor.require(Permission.KEY_SETS_MANAGE, account))


def _check_store(values: Mapping[str, Any], account: CspAccount | None) -> list[DomainError]:
    links = list(values.get("links") or ())
    prefix = values.get("path_prefix")
    if not values.get("use_as_external_key_store"):
        if links:
            return [
                ValidationFailed(
                    "AWS stores belong to an external key store.",
                    field="links",
                    cure="Use the key set as external key store, or leave the regions out.",
                )
            ]
        return []

    def path() -> None:
        if prefix is None:
            return
        naming.check_path_prefix(prefix)
        if prefix and XksKeyStore.objects.filter(path_prefix=prefix).exists():
            raise ValidationFailed(
                "Another store of this installation has this path prefix.", field="path_prefix",
                cure="Choose another, or leave it out and one is made.",
            )  # fmt: skip

    found = _errors(path)
    seen: set[str] = set()
    for index, link in enumerate(links):
        found += _check_link(dict(link), f"links[{index}].", account, seen)
    return found


def _check_link(
    link: dict[str, Any], at: str, account: CspAccount | None, seen: set[str]
) -> list[DomainError]:
    partition = account.partition if account is not None else "aws"
    connectivity = link.get("connectivity", AwsStoreLink.Connectivity.PUBLIC_ENDPOINT)
    service = str(link.get("vpc_endpoint_service_name", ""))

    def region() -> None:
        named = naming.check_region(str(link.get("region", "")), partition, field=f"{at}region")
        if named in seen:
            raise ValidationFailed(
                "This region stands twice.", field=f"{at}region", cure="Choose another region."
            )
        seen.add(named)

    def linked() -> None:
        if link.get("linked", True) and account is None:
            raise ValidationFailed(
                "A linked store needs a CSP account on its key set.", field=f"{at}linked",
                cure="Choose a CSP account, or unlinked.",
            )  # fmt: skip

    def endpoint() -> None:
        given = str(link.get("endpoint") or settings.KEYSTEAD_XKS_PUBLIC_ENDPOINT)
        naming.check_endpoint(given, field=f"{at}endpoint")

    def way() -> None:
        if connectivity not in AwsStoreLink.Connectivity.values:
            raise ValidationFailed(
                "This connectivity is unknown.", field=f"{at}connectivity",
                cure=f"Give one of {', '.join(AwsStoreLink.Connectivity.values)}.",
            )  # fmt: skip
        if connectivity == AwsStoreLink.Connectivity.VPC_ENDPOINT_SERVICE:
            naming.check_vpc_service_name(service, field=f"{at}vpc_endpoint_service_name")
        elif service:
            raise ValidationFailed(
                "A public endpoint has no VPC endpoint service.", field=f"{at}vpc_endpoint_service_name",
                cure="Leave it out, or choose VPC_ENDPOINT_SERVICE.",
            )  # fmt: skip

    return _errors(region, linked, endpoint, way)


def _check_protection(vault: Vault, values: Mapping[str, Any]) -> list[DomainError]:
    given = values.get("protection", KeySet.Protection.SOFTWARE)
    return _errors(
        lambda: check_choice(vault, given, values.get("hsm_connection"), values.get("hsm_replication") or "")
    )


def _check_schedule(values: Mapping[str, Any]) -> list[DomainError]:
    return _errors(
        lambda: parse_schedule(values.get("rotation_schedule") or {"kind": "none"}),
        lambda: parse_expiration(values.get("expiration") or {"kind": "never"}),
    )


def _summary(values: Mapping[str, Any], account: CspAccount | None) -> list[tuple[str, str]]:
    rows = [("Type", "AWS keys"), ("Name", str(values.get("name", "")))]
    if values.get("description"):
        rows.append(("Description", str(values["description"])))
    simulated = " (simulated)" if account is not None and account.is_simulated else ""
    rows.append(("CSP account", f"{account.name}{simulated}" if account is not None else "None"))
    if values.get("use_as_external_key_store"):
        links = [dict(link) for link in values.get("links") or ()]
        rows.append(("External key store", "Yes: AWS calls Keystead for every use of these keys"))
        prefix = values.get("path_prefix")
        rows.append(
            (
                "Path",
                "made for it" if prefix is None else (prefix or "none: the access key id tells the store"),
            )
        )
        for link in links:
            by = (
                "Keystead makes and connects it"
                if link.get("linked", True)
                else "you make it in the AWS console"
            )
            way = AwsStoreLink.Connectivity(
                link.get("connectivity", AwsStoreLink.Connectivity.PUBLIC_ENDPOINT)
            ).label
            rows.append((f"AWS key store in {link.get('region')}", f"{way}; {by}"))
    else:
        rows.append(("External key store", "No"))
    protection = values.get("protection", KeySet.Protection.SOFTWARE)
    rows.append(("Protection", PROTECTIONS[protection]))
    if values.get("hsm_connection"):
        named = (
            HsmConnection.objects.filter(pk=values["hsm_connection"]).values_list("name", flat=True).first()
        )
        rows.append(("HSM", str(named)))
        rows.append(("How keys reach its members", REPLICATION_WORDS[values.get("hsm_replication") or ""][0]))
    rows.append(
        ("Rotation", schedule_words(parse_schedule(values.get("rotation_schedule") or {"kind": "none"})))
    )
    rows.append(("Expiry", expiration_words(parse_expiration(values.get("expiration") or {"kind": "never"}))))
    return rows


def schedule_words(schedule: Schedule | None) -> str:
    """A rotation schedule in words."""
    if schedule is None:
        return "Never by itself"
    unit = schedule.unit if schedule.every > 1 else schedule.unit.removesuffix("s")
    often = f"{schedule.every} {unit}" if schedule.every > 1 else unit
    return f"Every {often}, at {schedule.hour:02}:00 ({schedule.time_zone})"


def expiration_words(expiration: Expiration | None) -> str:
    """An expiration in words."""
    if expiration is None:
        return "Never"
    act = (
        "disabled"
        if expiration.then == "disable"
        else f"scheduled for deletion, {expiration.window_days} days later destroyed"
    )
    if expiration.at is not None:
        return f"On {expiration.at:%Y-%m-%d %H:%M} UTC, then {act}"
    return f"{expiration.days} days after it was made, then {act}"


@dataclass(frozen=True)
class ConsoleStep:
    """One step in the AWS console: what to do there, the values to copy (label, value), and a command that does the same."""

    title: str
    words: str
    values: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""
    command: str = ""


def console_steps_of(actor: Actor, link_id: UUID) -> list[ConsoleStep]:
    """AWS's own steps for an AWS key store, with every value; the secret was shown once and is not among them.

    Raises NotFound, PermissionDenied.
    """
    link: AwsStoreLink = actor.fetch(AwsStoreLink, link_id, Permission.XKS_STORES_VIEW)
    live = link.store.credentials.filter(state=XksCredential.State.ACTIVE)
    credential = live.order_by("-created_at").first()
    return console_steps(
        name=link.name,
        region=link.region,
        endpoint=link.endpoint,
        uri_path=link.store.path_prefix + naming.XKS_API_PATH,
        access_key_id=credential.access_key_id if credential is not None else "",
        connectivity=link.connectivity,
        vpc_endpoint_service_name=link.vpc_endpoint_service_name,
        custom_key_store_id=link.custom_key_store_id,
    )


def console_steps(
    *,
    name: str,
    region: str,
    endpoint: str,
    uri_path: str,
    access_key_id: str,
    connectivity: str = AwsStoreLink.Connectivity.PUBLIC_ENDPOINT,
    vpc_endpoint_service_name: str = "",
    custom_key_store_id: str = "",
) -> list[ConsoleStep]:
    """The AWS console's steps to make and connect an external key store, every value ready to copy. Pure.

    Source: AWS KMS developer guide, "Create an external key store" and "Configure VPC endpoint service connectivity".
    """
    vpc = connectivity == AwsStoreLink.Connectivity.VPC_ENDPOINT_SERVICE
    store_id = custom_key_store_id or "<custom key store id>"
    host = endpoint.removeprefix("https://")
    steps = _vpc_steps(region, host, vpc_endpoint_service_name) if vpc else []
    steps += [
        ConsoleStep(
            "Open the external key stores of this region",
            "In the AWS KMS console choose the region, then Custom key stores, External key stores, and Create external key store.",
            [("Region", region), ("Address", f"https://{region}.console.aws.amazon.com/kms/home?region={region}#/kms/external-key-stores")],
        ),
        ConsoleStep("Name the key store", "Custom key store name.", [("Custom key store name", name)]),
        ConsoleStep(
            "Choose the proxy connectivity",
            "Choose VPC endpoint service, and the service." if vpc else "Choose Public endpoint.",
            [("Proxy connectivity", "VPC endpoint service" if vpc else "Public endpoint")]
            + ([("VPC endpoint service name", vpc_endpoint_service_name)] if vpc else []),
        ),
        ConsoleStep(
            "Configure the proxy",
            "Choose Upload configuration file and take the JSON file with the credentials, which fills in path, access key id and "
            "secret; or type the values. The endpoint is not in the file.",
            [("Proxy URI endpoint", endpoint), ("Proxy URI path", uri_path), ("Proxy credential: Access key ID", access_key_id)],
            note="The secret access key was shown once, when the credential was made. If it is lost, make another credential.",
        ),
        ConsoleStep(
            "Create it",
            "Choose Create external key store. AWS calls this endpoint at once to see that it answers.",
            command=_create_command(
                name, region, endpoint, uri_path, "VPC_ENDPOINT_SERVICE" if vpc else "PUBLIC_ENDPOINT",
                vpc_endpoint_service_name if vpc else "",
            ),
            note="The command takes the credential from a file xks-credential.json with AccessKeyId and RawSecretAccessKey.",
        ),
        ConsoleStep(
            "Connect it",
            "Choose the key store, then Key store actions, Connect. It takes some minutes until the state is Connected.",
            command=f"aws kms connect-custom-key-store --region {region} --custom-key-store-id {store_id}",
        ),
        ConsoleStep(
            "Tell Keystead its id",
            "Bring the custom key store ID from the AWS console to Keystead: then commands for keys name it, and the store can be "
            "linked later.",
            [("Custom key store ID", custom_key_store_id)] if custom_key_store_id else [],
        ),
    ]  # fmt: skip
    return steps


def _vpc_steps(region: str, host: str, service: str) -> list[ConsoleStep]:
    return [
        ConsoleStep(
            "Put a Network Load Balancer before Keystead",
            "In the VPC that reaches Keystead's XKS port: a Network Load Balancer with subnets in at least two Availability Zones, "
            "a TCP listener on 443 and the XKS nodes as targets. TLS ends at Keystead, not at the balancer.",
            [("Listener", "TCP 443"), ("Health check", "HTTPS /ping")],
        ),
        ConsoleStep(
            "Make the endpoint service",
            "In the VPC console: Endpoint services, Create, type Network, your balancer, acceptance not required, IPv4, and the "
            "private DNS name. Verify the domain with the TXT record that AWS names.",
            [("Private DNS name", host)] + ([("Service name", service)] if service else []),
        ),
        ConsoleStep(
            "Allow AWS KMS to use it",
            "In the endpoint service, Allow principals.",
            [("Principal", f"cks.kms.{region}.amazonaws.com")],
            command=(
                f"aws ec2 modify-vpc-endpoint-service-permissions --region {region} --service-id "
                f"{service.rpartition('.')[2] or '<service id>'} --add-allowed-principals cks.kms.{region}.amazonaws.com"
            ),
        ),
    ]


def _create_command(
    name: str, region: str, endpoint: str, uri_path: str, connectivity: str, service: str
) -> str:
    quoted = "'" + name.replace("'", "'\\''") + "'"
    parts = [
        f"aws kms create-custom-key-store --region {region}",
        f"--custom-key-store-name {quoted}",
        "--custom-key-store-type EXTERNAL_KEY_STORE",
        f"--xks-proxy-connectivity {connectivity}",
        f"--xks-proxy-uri-endpoint {endpoint}",
        f"--xks-proxy-uri-path {uri_path}",
        "--xks-proxy-authentication-credential file://xks-credential.json",
    ]
    if service:
        parts.append(f"--xks-proxy-vpc-endpoint-service-name {service}")
    return " \\\n  ".join(parts)
