"""The WSGI application that granian serves."""

import os

from django.core.wsgi import get_wsgi_application

from vault.hardening import harden_process

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vault.settings")

harden_process()
application = get_wsgi_application()
