"""Public classes: pickled under their public names, loaded from pickles of 0.1.0, and their examples run."""

from __future__ import annotations

import base64
import doctest
import pickle
import zlib

import pytest
import torch

import hrta_ext as hx

# zlib.compress(pickle.dumps(object)) in base 85, written by 0.1.0 when every module stood beside the others.
OLD = {
    "TwoLayerNet": (
        "c-qxe&u`N(6i(7~8!a8%5C}GeICclB{VtV|CQZ{M6c}T0$N^-ziQ9x_abr6xMVd4uHoD0Y2Mi}J+_)ogWL)?I_z$@9Cm?a)wduBY"
        "Ke*2a$9doPp5Oayzb*6qLZ8+ia>Qc-Bl1ENM4h4lHwaTQ`=n0qx0cI9sCR1omD*H!IUpGJLqDvlrp%%mW_X<l!gw3(s}sNK2_-KI"
        "${eqNV&Ml|$q~dzIranh$N?gH7rFpJLQWalm;xX#bBRBP53Uj=hfqMViz<w+qjEzK4y=W&u4!AwUMBeaap}*k=bu-u7q*NCzf&-8"
        "Mq1t;g3@Y?3hK}RZ9tAb4I>>0b`Frh7a|~tgszXn$Y|ObFp5TvAnv~;JW6dwX5LPNk$aShC~X;b3jX|1M17WNo2?i$tVaEo8ON|^"
        "-tKRalawRPX_t^$g2ct+#F&Y6dk{FKnTcYlI6E;}oSUAVijufaEsj!_xhx{{5kz|yX{T{@TriVE)1J=%m|wa3;oH3^`~B<d;d!;K"
        "R+Xh$hGpz1nDrgCE3;60KpX+3!#QLhGM6yoF8WUUNLQ5rpQd*WR&QV>b2JvUSfI{1dRZ@*_l6cy=UeHSQfX#-a%!SSY2$RI54oVU"
        "(NX%-&%OQI=`Z_-3U4b*-&VVA-Fg*_<p3(jl}hp=q|Q~Mpm`n?T%>V1AZJK8SDc-@(<`BVmV_NHNT_Sw<JZ9@9UngukIOL>(h${J"
        "RdeVA;y^*fq4T^|@-ix8XRVGI^bbamN9h{q+VYo|j-YPyRpfJ2iG!dQR?Bh_RVX{bAMLfGx-UG`@~a*&ZX9FappF|HIT)Uo+u@8H"
        "a*n5Y^CWW09>a(WEC_PpdG@$p=?0F+9!+}Ve;8vY8I<?#Fo4#n8waF)Yt1s|&~!~kf*6{HAEFAuB4&VEx=h!7S9s82fahbbnsK@C"
        "58e$Hd;"
    ),
    "Sequential": (
        "c-nna%W4!s6z!hrB*Wxk9vXBKLJ*P3rU@Z3W+h4xVK8d4>5UZC-8EBXYO1;(ojAfkTnJGbvPik}1N<zveuCh_>Z!aY3D%-d-+Ruj"
        "y4C0QQSf~w@P?~sXf6{RG8XoDnp330gfk5ZL(&xWJtT6(G=bEdnzhenV46iuOG^{hHOIvy$e@Hhq>)sXENURmJDsy&2{6t;W+S4s"
        "-Q}DE3Tbm<iUknEWd9J#6l4+s%=x}D#bm-MMTsVymC+lSB8k#%lIXI9T~pk-EORCJPMKZ=M1f9D=_qY>iW$)1@`k=KngxeMV^G$0"
        "&lStp6p$Xmz5)rf{iSD``3ueE6&$m2ley)LIiNJu2&DFYBjxw564&=`0Lo$dKgH5b1y`dd)WDhJrC0vC{jgYS2+&6zQrIs&EaqSF"
        "9@jkUKev7yz|xb8IlyDbczj@Rt*o}%DK|(U*Myd(K%zJ&GzHdr#U(h{u%*pn+R2m!*hQw8b&Yl;?}50lZ8xXpMc{khQRQ2m{{8Xt"
        "&+3PtZy$t5mDj(k_Bjw<Gn%!Nn@QW5ofU9U4j5;`w}NQeGL&dd5kM>@kcrB1RJTdp&k#`L6H=l&5J58<vq^=y)MBh%iK;dtOpEb$"
        "5S70M<*X|v+CiS%Gn>&wDRwOjFBx8;zRmNPqCJ<b3qP8%qOHyK)>dnCYqRy_X=_8cjgu@F)waK*MexpU_g;9nX?+;_-qrQ%nfYRN"
        "P1{>r`#Q8t+eqR1iNRCD7|%Ia*ui(*+oFT}4jK-Y9jrK5b@0%^BL|PIi9rmNH6+lGVUx!ykHdd#>Uyp"
    ),
    "GramPath": (
        "c-rNaOK8+U7{`-r`r5WyTAxtCldM&ieRjKEb}dE0pw<>Nf)ca4(<U{$*-0j~6$&lV)@r=y2nrtBn-`CI5or&F9*PISlNS|~YDJKW"
        "MM1?c`(iCC?6q|cGs(<<CNsbPH($p2yH6UJT(Ng429YH+LcEHe)`^}Sm9jEXs9k^Dkkh@+;~jc%f{sy-&5lsJiReaB@k$m^HIv${"
        "l7SMIs-+}?GNx`w!vWBH?B=}8ghn1j)NYY9T~0{@hMtxZqXe0t>TYKlW}Lg>)_y)X_GACh!`{8#aqi?t7t~{z@rW(3!K?wBO6r<4"
        "j0{uNGnfT|*bF0@N{EIelu4;_26NX%H*}KGERsz1Dl)Na4D%kb20BeeHwdl~IMD@fYKGuiffspa4Lvi6>jd7i;F}(?&JpLgjG1Ka"
        "2<{%;N@%D*-|NP#xD7<nkS`LAgrb3H)b9)7{KCnsg<S%FieUZ>EO!wzm9(tv<(W$5OKf9HCutuQ7=aVGDGD_^MQ7|rfT5uz0T#f&"
        "@wAab21@m)N#YpQM+wZa`Gjl&b>2XlMeUlDg9X~$iKtyS0A`TR5KORZuc#@am{h2r1ifjcVbPXSOk74r201?GqM_dz1$UKtkJ7jW"
        "+zW@m5MOof6|`mUeZTpuxoL21zGLarNSo%4_jRxQmhZR6z3gXvtBZ{n-D4g9rm4U?4o=e<rLEx7R>2tZMFX8xUV?(Q3}bv~bv=9j"
        ")%@b^YaP#mYq8e33kyqccE_3N?dM(#&tp|$<Tp9Su+P^O2?sm>!pK&}SkeMUwt%stq4nsI#T{i)2iYQDZ$#C!=_Ae`3WhhNUG85I"
        "SI`0~u7K*&hvnJBkLP1A=3Hm#`}Oh&E2Y^jcS(ccus={`t}AHEE@|;{E<BoD@qAs475`Z$_U(LnV0q8~lIy}ge<Tu&bXJ40q%Ff("
        "jJ)`}x8GhKx>v$jArdQNBy@sW3GW|1;o9i"
    ),
}
CLASSES = [value for name in hx.__all__ if isinstance(value := getattr(hx, name), type)]


def old(name: str) -> object:
    return pickle.loads(zlib.decompress(base64.b85decode(OLD[name])))


def test_whole_objects_of_0_1_0_load() -> None:
    net = old("TwoLayerNet")
    assert type(net) is hx.TwoLayerNet
    x = torch.tensor([[0.3], [-1.0]])
    assert torch.equal(net(x), hx.TwoLayerNet(1, 2, s=0.5, seed=0)(x))
    layers = old("Sequential")
    assert isinstance(layers, torch.nn.Sequential)
    assert type(layers[0]) is hx.HomotopyActivation
    assert torch.equal(layers(x), hx.homotopy(x, 0.5, "tanh"))
    path = old("GramPath")
    assert type(path) is hx.GramPath
    samples = hx.with_bias(torch.linspace(0, 1, 2, dtype=torch.float64)[:, None])
    torch.testing.assert_close(path(0.5).ntk, hx.random_gram_path(samples, 8, batches=1)(0.5).ntk)


@pytest.mark.parametrize("cls", CLASSES)
def test_public_classes_are_called_what_users_call_them(cls: type) -> None:
    assert cls.__module__ == "hrta_ext"
    assert pickle.loads(pickle.dumps(cls)) is cls


@pytest.mark.parametrize("cls", CLASSES)
def test_the_examples_of_public_classes_run(cls: type) -> None:
    """pytest does not find the methods' examples by itself: their globals are another module's."""
    found = doctest.DocTestFinder(exclude_empty=True).find(cls, cls.__name__, module=False, globs={})  # type: ignore[arg-type]
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for test in found:
        assert doctest.DocTestRunner(optionflags=flags).run(test).failed == 0
