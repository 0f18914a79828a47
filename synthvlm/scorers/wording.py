r"""What advertisements, boilerplate, addresses and file names look like: RE2 patterns over text in small letters.

RE2's ``\b`` knows ASCII only, so patterns of other scripts do without it. A pattern must not hit what a picture can show: "for sale" may
stand on a sign, and so counts half; "buy now" does not describe anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_GAP = re.compile(r" (?![^\[]*\])")
"""A space that does not stand in brackets."""


def any_of(*patterns: str) -> str:
    """Return the alternation of patterns."""
    return "|".join(f"(?:{p})" for p in patterns)


def words(*phrases: str) -> str:
    """Return a pattern for whole words or phrases, whatever white space or hyphen stands between them."""
    spaced = (_GAP.sub("[ -]+", p) for p in phrases)
    return rf"\b(?:{'|'.join(spaced)})\b"


URLS = any_of(
    r"\bhttps?:\s*//",
    r"\bftp://",
    r"\bwww\s?\.\s?[a-z0-9]",
    # Only endings that no sentence begins with: "on the mat.in front" lacks a space, not a browser.
    r"\b[a-z0-9][a-z0-9-]*\.(?:com|net|org|info|biz|shop|xyz|(?:co|com|org)\.[a-z]{2})\b",
    r"\b[a-z0-9][a-z0-9-]*\.[a-z]{2,3}/[a-z0-9]",
)
EMAILS = any_of(
    r"[a-z0-9._%+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}",
    r"\b[a-z0-9._-]+ ?[\[({] ?(?:at|@) ?[\])}] ?[a-z0-9-]+ ?(?:[\[({] ?(?:dot|\.) ?[\])}]|\.) ?[a-z]{2,}",
    r"\b[a-z0-9._-]+ at [a-z0-9-]+ dot (?:com|net|org|de|edu)\b",
)
PHONES = any_of(
    r"\(\d{3}\) ?\d{3}[ .-]\d{4}",
    r"\b\d{3}[ .-]\d{3}[ .-]\d{4}\b",
    r"\b1?[ -]?8(?:00|88|77|66)[ -][a-z0-9-]{5,}\b",
    r"\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ ./-]?){2,5}\d{2,4}",
    r"\b0\d{1,4}[ /.-]\d{3,}(?:[ .-]\d{2,})*",
    r"\b0\d(?:[ .]\d{2}){4}\b",
    r"\b(?:tel|phone|call|whatsapp|fax|mobile|telefon|tél|tel[eé]fono|llam[ae])\b[ .:]*\+?[\d(][\d ().-]{5,}\d",
    r"(?:电话|電話|тел)[.:： ]*\+?[\d(][\d ().-]{5,}\d",
    r"\b\d{3}-\d{4}-\d{4}\b",
)
HANDLES = any_of(r"(?:^|[ (,:])@[a-z0-9_.]{3,}", r"(?:^|[ (,])#[\pL_][\pL\d_]{2,}")
MARKUP = any_of(
    r"</?[a-z][a-z0-9]*(?: [^<>]{0,200})?/?>",
    r"&(?:amp|lt|gt|quot|nbsp|apos|#\d{2,5});",
    r"\[/?(?:img|url|caption|gallery|quote|center|youtube)[^\]]*\]",
    r"\[[^\]]+\]\([^)]+\)",
    r"\{\{|\}\}|<!--|<\?php|\$\{",
    r"\\u[0-9a-f]{4}|%20|\\n",
    r"\{ ?\"[a-z_]+\" ?:",
    r"\b(?:function|var|const) ?\(?\w*\)? ?[={]",
    r"â€|ã©|ã¨|ã¼|ï¿½|�",
)
FILENAMES = any_of(
    r"\b(?:img|dsc|dscn|dscf|dscn|pict|pxl|gopr|mvi|screenshot|screen shot|scan|image|photo|pic|picture|untitled|file|vid|video|wp|sam|cimg|dji|mg|wa)[_ -]?\d{3,}",
    r"\b(?:img|dsc|image|photo|scan|screenshot|pxl|download|unnamed)[_-][a-z0-9_-]*\d",
    r"\b[\w-]+\.(?:jpe?g|jfif|png|gif|bmp|tiff?|webp|heic|cr2|nef|psd|svg|eps|mp4|mov|avi|pdf|docx?|pptx?)\b",
    r"^[^ ]*_[^ ]*_[^ ]*$",
    r"^(?:download|unnamed|untitled|image|photo|picture|screenshot|thumbnail|placeholder|null|none|nan|undefined|n/a|logo|icon|banner|header)(?: ?\(?\d*\)?)?$",
    r"^[0-9a-f]{8,}(?:-[0-9a-f]{4,})*(?: |$)",
    r"\b\d{6,}[_-][a-z0-9_-]{3,}\b",
)

_SHOP = words(
    "buy (?:it )?(?:now|online|today|yours|cheap|one get one free)", "shop (?:now|online|our|the (?:latest|collection|sale))", "order (?:now|online|yours|today)",
    "add to (?:cart|basket|bag|wishlist)", "free (?:shipping|delivery|returns|quote|trial|gift|postage|worldwide shipping)", "fast shipping", "ships? (?:free|worldwide|within)",
    "limited (?:time|stock|edition offer)", "while (?:stocks?|supplies) last", "best (?:price|prices|deal|deals|seller|sellers|selling|quality at)", "low(?:est)? prices?", "great deals?",
    "special offers?", "clearance sale", "on sale (?:now|today)", "sale ends", "huge sale", "(?:black friday|cyber monday) (?:deals?|sale)", "promo(?:tional)? code", "coupon(?: code)?s?", "discount code",
    "money[ -]back", "satisfaction guaranteed", "in stock", "out of stock", "sold out", "pre[ -]?order", "wholesale", "dropshipping", "affordable prices?", "hurry up", "don[’']t miss", "act now", "call (?:us )?(?:now|today)",
    "contact us", "visit (?:our|us)", "book (?:now|your|online|today)", "get (?:yours|it) (?:now|today|here)", "get a (?:free )?quote", "made to order", "custom(?:i[sz]ed)? (?:orders?|prints?|printed)", "for (?:men|women|kids|girls|boys) (?:size|sizes)",
    "brand new with tags", "nwt", "bnib", "size (?:s|m|l|xl|xxl|\\d+)(?:/| |,|$)", "sizes? available", "available (?:now|in \\d+ colou?rs|for purchase|at)", "items? no", "sku", "model (?:no|number)", "product (?:code|details?|description|image)", "customer reviews?", "out of 5 stars", "as seen on tv",
    "lose weight", "weight loss", "make money", "earn (?:money|\\$\\d+)", "work from home", "casino", "no deposit", "viagra", "cialis", "crypto (?:signals|trading)", "investment opportunity", "payday loans?", "free download",
)  # fmt: skip
_SHOP_ELSEWHERE = any_of(
    words("jetzt (?:kaufen|bestellen|zugreifen|buchen|sparen|sichern)", "versandkostenfrei", "kostenloser versand", "in den warenkorb", "g[üu]nstig (?:kaufen|online)", "sonderangebot", "angebot des tages", "online bestellen", "nur heute", "rabatt", "sale %"),
    r"(?:günstige preise|versand gratis|lieferung frei haus)",
    words("comprar? (?:ahora|ya|online|en l[ií]nea|barat[oa]s?)", "env[ií]o gratis", "gastos de env[ií]o", "oferta(?:s)? (?:especial(?:es)?|limitada|del d[ií]a)", "descuentos?", "rebajas", "mejores? precios?", "al mejor precio", "p[ií]del[oa] ya"),
    words("acheter? (?:maintenant|en ligne|pas cher)", "achetez", "livraison (?:gratuite|offerte|rapide)", "pas cher", "soldes", "promotion", "meilleurs? prix", "commandez", "en stock", "ajouter au panier"),
    words("acquista (?:ora|online|subito)", "spedizione gratuita", "offerta (?:speciale|limitata)", "sconti?", "miglior prezzo", "compra (?:ora|adesso|subito|online)", "frete gr[aá]tis", "compre (?:agora|j[aá])", "promo[cç][aã]o", "desconto", "menor pre[cç]o"),
    words("koop nu", "gratis verzending", "bestel (?:nu|direct)", "aanbieding", "korting", "kup teraz", "darmowa (?:dostawa|wysy[lł]ka)", "promocja", "najni[zż]sza cena", "hemen (?:al|sat[ıi]n)", "[üu]cretsiz kargo", "indirimli?"),
    r"купить|скидк[аи]|бесплатная доставка|распродажа|заказать|по низкой цене|акция|доставка по",
    r"购买|優惠|优惠|包邮|免运费|免運費|特价|特價|折扣|促销|批发|厂家直销|点击|立即|下单|限时|正品",
    r"送料無料|激安|特価|今すぐ|購入|通販|お買い得|セール|割引|最安値|ご注文",
    r"무료배송|무료 배송|할인|구매|특가|세일|주문|최저가",
    r"شحن مجاني|خصم|اشتر|تسوق|עכשיו במבצע|משלוח חינם|הנחה|मुफ्त|छूट|खरीदें",
)  # fmt: skip
ADVERTISEMENT = any_of(
    _SHOP,
    _SHOP_ELSEWHERE,
    r"\d+ ?% (?:off|rabatt|discount|de descuento|de réduction|korting|sconto|desconto)\b|\b(?:save|sparen sie|ahorra|up to|bis zu|jusqu'à) \d+ ?%",
    r"(?:[$€£¥₹₽]|\b(?:usd|eur|gbp|rs\.?|inr|us\$)) ?\d[\d.,]*[.,]\d{2}\b",
    r"\b\d[\d.,]*[.,]\d{2} ?(?:[$€£₽]|usd|eur|euros?|gbp|zł|kr|tl)",
    r"\b(?:was|now|only|just|from|nur|ab|solo|desde|seulement|price:?|preis:?|precio:?|prix:?|цена:?) ?(?:[$€£¥₹₽] ?\d|\d[\d.,]* ?(?:[$€£¥₹₽]|usd|eur|euros?|руб))",
    r"[$€£] ?\d+ ?(?:per|/|a) ?(?:month|mo|day|night|hour|week|person|kg|pc|piece)\b",
)
ADVERTISEMENT_HINTS = any_of(
    words("for sale", "sale", "offer", "discount(?:ed)?", "cheap", "new arrivals?", "best", "bestseller", "top quality", "high quality", "premium", "original", "authentic", "unisex", "pcs", "pack of \\d+", "set of \\d+", "gift idea", "great gift", "perfect gift", "official", "20\\d\\d new", "new 20\\d\\d", "waterproof", "adjustable", "replacement", "compatible with", "warranty", "free"),
    r"[$€£¥₹₽] ?\d|\d ?[€£₽]|\b\d+ ?(?:usd|eur)\b",
    r"\b\d+(?:\.\d+)? ?(?:mm|cm|ml|oz|inch(?:es)?|gb|tb|mah|w|v|hz)\b",
    r"\b[a-z]{1,3}\d{3,}[a-z]?\b",
    r"!!+|\*\*\*|►|✓|✔|★|☆|👉|🔥|💥|➡|📞",
)  # fmt: skip
"""What is found in advertisements, but elsewhere too: half a hit each."""

BOILERPLATE = any_of(
    words(
        "(?:stock|royalty free|rf|file) (?:photos?|photography|images?|pictures?|footage|vectors?|illustrations?|video|clip ?art)", "royalty[ -]free", "getty ?images?", "shutterstock", "istock(?:photo)?", "alamy", "adobe stock", "depositphotos", "dreamstime", "123rf", "fotolia", "bigstock", "freepik", "unsplash", "pixabay", "pexels", "pinterest", "flickr", "instagram", "facebook", "tumblr", "etsy", "ebay", "amazon", "aliexpress", "wikimedia commons",
        "(?:photo|image|picture|foto|video|art|artwork|illustration|photograph|photography|images|photos) (?:by|credits?|courtesy|copyright|via|source|from)(?: of)?(?: the)?:? ", "(?:photo|image|picture)s?(?: is)? copyright", "courtesy of", "all rights reserved", "copyrights?", "terms (?:of (?:use|service)|and conditions|apply)", "privacy policy", "cookies? (?:policy|settings)", "accept (?:all )?cookies",
        "click (?:here|to|on|for|the (?:image|link|picture|photo)|image)", "tap (?:here|to)", "read more", "learn more", "see more", "show more", "load(?:ing)? more", "find out more", "view (?:larger|full|more|all|gallery|original|image|details)", "(?:enlarge|zoom) (?:image|photo|picture|in)", "(?:image|picture|photo|file|content|page|video|description) (?:not (?:found|available)|unavailable|may contain|result for|loading|placeholder|removed|missing|no longer available)", "no (?:image|photo|picture|preview|caption|description|title)(?: available)?", "image \\d+ of \\d+", "(?:photo|slide|page|picture) \\d+ of \\d+", "page not found", "error 40[34]", "access denied", "enable javascript", "your browser",
        "sign (?:up|in) (?:for|to|now|here|with)", "log ?in", "subscribe(?: to| now)?", "newsletter", "follow (?:us|me) (?:on|at)?", "share (?:this|on|via)", "like and share", "like us on", "link in bio", "posted (?:by|on|in|at)", "filed under", "leave a (?:comment|reply)", "no comments", "comments? \\(\\d+\\)", "retweet", "repost", "skip to (?:content|main)", "next (?:slide|article|post)", "previous (?:slide|article|post)", "related (?:posts?|articles?|products?|images?)", "you may also like", "via @", "download (?:now|this|free|the|image|wallpaper|pdf|here)", "hd wallpapers?", "wallpapers? (?:hd|for|download|free)", "free (?:wallpapers?|vectors?|clip ?arts?|printables?|templates?|psd|stock|images?|photos?|icons?|fonts?)", "vector eps", "eps ?10", "mockups?", "template (?:design|download)", "powerpoint template", "profile picture of", "user avatar", "alt ?text", "lorem ipsum", "test (?:caption|image|123)", "asdf\\w*", "qwerty\\w*", "todo", "tbd",
        "as an ai(?: language model)?", "i(?:[’']m| am) (?:sorry|unable|not able)", "i (?:cannot|can[’']t|can not) (?:see|view|help|assist|provide|describe|identify)", "sorry,? (?:but )?i", "(?:here is|here[’']s) (?:a|the|your) (?:caption|description)", "please (?:provide|upload|describe|note)", "watermark(?:ed)?", "in this (?:article|post|blog|video|tutorial)", "chapter \\d+", "figure \\d+", "fig\\. ?\\d+", "table \\d+", "(?:january|february|march|april|may|june|july|august|september|october|november|december) \\d{1,2},? (?:19|20)\\d\\d",
    ),
    r"©|\(c\) ?(?:19|20)\d\d|®|™",
    r"\bphoto ?: ?[a-z]|\bimage ?: ?[a-z]|\bfoto ?: ?\pL|\bcredit ?: ?\pL|\bsource ?: ?\pL|\btags? ?: ?\pL|\bcategor(?:y|ies) ?: ?\pL|\btitle ?: ?\pL",
    r"\b\d{3,4} ?[x×] ?\d{3,4}(?: ?px| pixels)?\b",
    r"^(?:photo|image|picture|illustration|slide|figure|logo|icon) ?#? ?\d+$",
    words("lizenzfreie?s?", "stockfotos?", "stockbild(?:er)?", "bildnachweis", "alle rechte vorbehalten", "klicken sie", "hier klicken", "mehr (?:erfahren|lesen)", "weiterlesen", "bild vergr[öo](?:ss|ß)ern", "abonnieren", "fotos? de stock", "banque d[’']images?", "libres? de droits?", "libre de derechos", "haga clic", "haz clic", "leer m[áa]s", "ver m[áa]s", "todos los derechos reservados", "cliquez (?:ici|pour|sur)", "lire la suite", "en savoir plus", "tous droits r[ée]serv[ée]s", "clicca (?:qui|per)", "leggi tutto", "immagini? stock", "foto stock", "clique aqui", "saiba mais", "leia mais", "todos os direitos reservados", "klik hier", "lees meer", "kliknij", "czytaj (?:dalej|wi[ęe]cej)", "t[ıi]klay[ıi]n", "devam[ıi]n[ıi] oku"),
    r"нажмите|читать далее|подробнее|все права защищены|стоковое фото|стоковые|фото:|подписывайтесь|скачать",
    r"点此|點此|查看更多|阅读全文|版权所有|版權所有|图片来源|圖片來源|素材|下载|关注我们|详情",
    r"クリック|続きを読む|詳細はこちら|無断転載|フリー素材|ダウンロード|자세히 보기|더 보기|클릭|다운로드|무단 전재|저작권|اضغط هنا|اقرأ المزيد|لمزيد من|לחצו כאן|קרא עוד|यहां क्लिक|और पढ़ें",
)  # fmt: skip

EXPLICIT: Sequence[str] = (
    "porn", "porno", "pornographic", "pornography", "xxx video", "hentai", "blowjob", "handjob", "cumshot", "creampie", "gangbang", "bukkake", "milf", "deepthroat", "anal sex", "oral sex", "sex tape", "nude teen",
    "naked child", "naked girl", "naked teen", "child porn", "underage sex", "upskirt", "incest", "bestiality", "rape", "raping", "masturbating", "masturbation", "ejaculation", "erect penis", "genitals", "fuck", "fucking", "cunt",
    "whore", "slut", "nigger", "faggot", "kike", "gas the jews", "white power", "heil hitler", "beheading", "beheaded", "decapitated", "dismembered", "gore video", "snuff film",
)  # fmt: skip
"""A short list, in English, of what no picture book has. It stands for what is plain; a list of one's own, or a model, says more."""
