import hashlib
import hmac
import json

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from .models import Push


@csrf_exempt
@require_POST
def github(request: HttpRequest) -> HttpResponse:
    """Note a push, once however often GitHub delivers it."""
    digest = hmac.new(settings.GITHUB_SECRET.encode(), request.body, hashlib.sha256).hexdigest()
    given = request.headers.get("X-Hub-Signature-256", "")
    if not hmac.compare_digest(f"sha256={digest}".encode(), given.encode()):
        return HttpResponse("not GitHub's signature", status=403)
    if request.headers["X-GitHub-Event"] == "push":
        event = json.loads(request.body)
        Push.objects.get_or_create(
            delivery=request.headers["X-GitHub-Delivery"],
            defaults={"repository": event["repository"]["full_name"], "commit": event["after"]},
        )
    return HttpResponse(status=204)
