"""How each kind of long work is done: an explicit table from kind to flow."""

from cloudkeys.flows import (
    bulk,
    credential_rotation,
    pointers,
    provisioning,
    store_link_changes,
    store_links,
    versions,
    xks_credential_rotation,
)
from cloudkeys.operations.steps import Flow

FLOWS: dict[str, Flow] = {
    "cloud_key.provision": provisioning.PROVISION,
    "cloud_key.link": provisioning.LINK,
    "cloud_key.update_pointer": pointers.UPDATE,
    "cloud_key.disable_pointer": pointers.DISABLE,
    "cloud_key.enable": pointers.ENABLE,
    "cloud_key.schedule_deletion": pointers.SCHEDULE_DELETION,
    "cloud_key.cancel_deletion": pointers.CANCEL_DELETION,
    "cloud_key.destroy": pointers.DESTROY,
    "cloud_key.rotate": versions.ROTATE,
    "cloud_key.refresh": pointers.REFRESH,
    "store_link.create": store_links.CREATE,
    "store_link.link": store_link_changes.LINK,
    "store_link.update": store_link_changes.UPDATE,
    "store_link.connect": store_links.CONNECT,
    "store_link.disconnect": store_links.DISCONNECT,
    "store_link.delete": store_link_changes.DELETE,
    "store_link.refresh": store_link_changes.REFRESH,
    "csp_account.rotate_credential": credential_rotation.ROTATE,
    "xks_store.rotate_credential": xks_credential_rotation.ROTATE,
    "cloud_keys.bulk": bulk.BULK,
    "cloud_keys.csv_create": bulk.CSV_CREATE,
}
